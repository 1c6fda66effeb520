//! HTTP as far as a check needs it: one GET, one status (RFC 9112). HTTP/1.0, so that no interim answer (1xx) can come first
//! (RFC 9110 s15.2); the connection ends with the status.

use std::net::IpAddr;

/// The octets up to the status code.
const STATUS_LINE: usize = b"HTTP/1.1 200".len();

/// The request for a backend.
pub(super) fn request(path: &str, host: &str, address: IpAddr, port: u16) -> Vec<u8> {
    let host = match (host, address, port) {
        ("", IpAddr::V4(address), 80) => address.to_string(),
        ("", IpAddr::V4(address), port) => format!("{address}:{port}"),
        ("", IpAddr::V6(address), 80) => format!("[{address}]"),
        ("", IpAddr::V6(address), port) => format!("[{address}]:{port}"),
        (host, ..) => host.to_owned(),
    };
    format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: marchproxy\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// What an answer says as far as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Too short to tell.
    More,
    /// This status.
    Status(u16),
    /// Something else than HTTP.
    Other,
}

/// The beginning of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    line: [u8; STATUS_LINE],
    len: usize,
}

impl Reader {
    /// Takes what came; only the beginning counts.
    pub(super) fn take(&mut self, data: &[u8]) -> Answer {
        let room = (STATUS_LINE - self.len).min(data.len());
        self.line[self.len..self.len + room].copy_from_slice(&data[..room]);
        self.len += room;
        let fits = |at: usize, octet: u8| match at {
            0..=4 => octet == b"HTTP/"[at],
            6 => octet == b'.',
            8 => octet == b' ',
            _ => octet.is_ascii_digit(),
        };
        if !self.line[..self.len].iter().enumerate().all(|(at, &octet)| fits(at, octet)) {
            return Answer::Other;
        }
        if self.len < STATUS_LINE {
            return Answer::More;
        }
        Answer::Status(self.line[9..].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_their_host() {
        let text = |host, address: &str, port| {
            String::from_utf8(request("/ok?x=1", host, address.parse().unwrap(), port)).unwrap()
        };
        let lines = text("", "2001:db8::1", 8080);
        assert!(lines.starts_with("GET /ok?x=1 HTTP/1.0\r\nHost: [2001:db8::1]:8080\r\n"), "{lines}");
        assert!(lines.ends_with("\r\n\r\n"));
        assert!(text("", "10.0.0.1", 80).contains("\r\nHost: 10.0.0.1\r\n"));
        assert!(text("web.example", "10.0.0.1", 81).contains("\r\nHost: web.example\r\n"));
    }

    #[test]
    fn the_status_is_found_however_it_is_cut() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\n";
        for cut in 0..answer.len() {
            let mut reader = Reader::default();
            let first = reader.take(&answer[..cut]);
            let whole = if cut < STATUS_LINE { Answer::More } else { Answer::Status(503) };
            assert_eq!(first, whole, "cut at {cut}");
            assert_eq!(reader.take(&answer[cut..]), Answer::Status(503));
        }
        for other in ["SSH-2.0", "HTTP/1.1-200", "HTTP/1.1 2x0", "HTTP 200"] {
            assert_eq!(Reader::default().take(other.as_bytes()), Answer::Other, "{other}");
        }
    }
}

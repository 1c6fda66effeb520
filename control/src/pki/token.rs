//! One-time tokens: 256 random bits, of which only the hash is kept.

use aws_lc_rs::{digest, rand};

use super::PkiError;

/// Marks the text as ours, for people and for secret scanners.
const PREFIX: &str = "mpt_";

/// A fresh secret; its text is shown once and never stored.
pub struct Token {
    text: String,
}

impl Token {
    /// Makes one.
    pub fn generate() -> Result<Token, PkiError> {
        use std::fmt::Write as _;
        let mut secret = [0_u8; 32];
        rand::fill(&mut secret)
            .map_err(|_| PkiError::Crypto { doing: "make a token", why: "no randomness from the system".to_owned() })?;
        let text = secret.iter().fold(PREFIX.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Ok(Token { text })
    }

    /// What is handed to whoever enrols.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What is stored of a token: SHA-256 of its text. A plain hash suffices because the secret has 256 bits.
pub fn secret_hash(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.trim().as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_hash_alike() {
        let (a, b) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_ne!(a.text(), b.text());
        assert_eq!(a.text().len(), PREFIX.len() + 64);
        assert_eq!(secret_hash(a.text()), secret_hash(&format!("{}\n", a.text())));
        assert_eq!(format!("{a:?}"), "Token(..)");
    }
}

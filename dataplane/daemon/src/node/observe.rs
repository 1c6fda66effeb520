//! Traces and captures: arms a lens on every worker and on the slow path, exchanges them for empty ones while packets come, tells what they saw, and
//! takes them back however it ends.

use std::collections::VecDeque;
use std::sync::{PoisonError, TryLockError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use marchproxy_engine::flow::{FlowKey, to_ip};
use marchproxy_engine::observe::filter::{Filter, places};
use marchproxy_engine::observe::render::{self, Names};
use marchproxy_engine::observe::{End, Kind, Lens, Order, Point, Record, language};
use marchproxy_proto::v1;
use marchproxy_proto::v1::observation::Item;

use super::Shared;
use super::worker::SlowQuestion;
use crate::driver::Driver;
use crate::runtime::Outlet;

/// Between two exchanges: soon enough for a person, and rare enough that a worker is asked some dozen times a second.
const ROUND: Duration = Duration::from_millis(20);
/// The slow path's turns are 1 ms apart at most; what a trace punted last has its end by then.
const AFTERMATH: Duration = Duration::from_millis(10);
/// Packets a worker may show between two exchanges: 50,000 a second.
const RECORDS: usize = 1024;
/// Octets of copies between two exchanges.
const OCTETS: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(2);
const TIMEOUT_MS: u32 = 30_000;
const TIMEOUT_MAX_MS: u32 = 3_600_000;
const SNAPLEN: u32 = 2048;
/// Packets sent to the slow path whose end there a trace waits for.
const OPEN_ENDS: usize = 1024;

/// While this lives, the engine gets the packets too that would end in front of it.
pub(super) struct Early<'a, D: Driver>(&'a D);

impl<'a, D: Driver> Early<'a, D> {
    pub(super) fn leave(driver: &'a D) -> Self {
        driver.watch(true);
        Self(driver)
    }
}

impl<D: Driver> Drop for Early<'_, D> {
    fn drop(&mut self) {
        self.0.watch(false);
    }
}

/// What was asked for, checked.
struct Wanted {
    filter: Filter,
    point: Point,
    count: u64,
    snaplen: usize,
    span: Duration,
}

impl<D: Driver> Shared<D> {
    pub(super) fn trace(&self, request: &v1::TraceRequest, outlet: &Outlet) -> Result<(), String> {
        let wanted = Wanted {
            filter: self.filter(&request.r#match)?,
            point: Point::Trace,
            count: within("count", request.count, 10, 10_000)?.into(),
            snaplen: 0,
            span: span(request.timeout_ms)?,
        };
        self.watch(&wanted, outlet)
    }

    pub(super) fn capture(&self, request: &v1::CaptureRequest, outlet: &Outlet) -> Result<(), String> {
        let point = Point::CAPTURE.into_iter().find(|point| point.label() == request.at).ok_or_else(|| {
            format!("at: found {:?}, allowed: {}", request.at, Point::CAPTURE.map(Point::label).join(", "))
        })?;
        let wanted = Wanted {
            filter: self.filter(&request.r#match)?,
            point,
            count: within("count", request.count, 1000, 1_000_000)?.into(),
            snaplen: within("snaplen", request.snaplen, SNAPLEN, 65_535)? as usize,
            span: span(request.timeout_ms)?,
        };
        self.watch(&wanted, outlet)
    }

    fn filter(&self, text: &str) -> Result<Filter, String> {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        language::parse(text, Some(&places(observer.current()))).map_err(|error| error.to_string())
    }

    fn names(&self, newer_than: u64) -> Option<Names> {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        let generation = observer.generation();
        (generation > newer_than).then(|| Names::of(observer.current(), generation))
    }

    fn watch(&self, wanted: &Wanted, outlet: &Outlet) -> Result<(), String> {
        let _one = match self.watched.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(
                    "a trace or capture runs on this node already; one at a time: wait for its end, or end it".into()
                );
            }
        };
        let _all = Early::leave(&*self.driver);
        let watch = Watch::arm(self, wanted)?;
        watch.run(outlet)
    }

    fn exchange_slow(&self, lens: Option<Box<Lens>>) -> Result<Option<Box<Lens>>, String> {
        let (sender, receiver) = mpsc::channel();
        let question = SlowQuestion::Observe(lens, sender);
        let asked = self.slow_path.lock().unwrap_or_else(PoisonError::into_inner).send(question);
        let answer = asked.ok().and_then(|()| receiver.recv_timeout(PATIENCE).ok());
        answer.ok_or_else(|| "the slow path did not answer; please report this".into())
    }
}

/// A running trace or capture. Dropping it takes all lenses back.
struct Watch<'a, D: Driver> {
    shared: &'a Shared<D>,
    wanted: &'a Wanted,
    deadline: Instant,
    /// The newest generation's names last. Records of a generation whose names never stood here (three pushes within a round) are told without.
    names: VecDeque<Names>,
    /// Empty lenses, by worker; the slow path's is the last.
    spare: Vec<Option<Box<Lens>>>,
    /// Between the clock of the workers and the calendar.
    epoch: Option<SystemTime>,
    told: u64,
    missed: u64,
    /// Traced packets that went to the slow path.
    open: VecDeque<(u64, FlowKey)>,
}

impl<D: Driver> Drop for Watch<'_, D> {
    fn drop(&mut self) {
        for line in self.shared.lines.iter() {
            if let Err(silent) = line.observe(None) {
                tracing::error!("a worker's lens stays until its time is up: {silent}");
            }
        }
        if let Err(silent) = self.shared.exchange_slow(None) {
            tracing::error!("the slow path's lens stays until its time is up: {silent}");
        }
    }
}

impl<'a, D: Driver> Watch<'a, D> {
    fn arm(shared: &'a Shared<D>, wanted: &'a Wanted) -> Result<Self, String> {
        let mut watch = Self {
            shared,
            wanted,
            deadline: Instant::now() + wanted.span,
            names: shared.names(0).into_iter().collect(),
            spare: Vec::new(),
            epoch: None,
            told: 0,
            missed: 0,
            open: VecDeque::new(),
        };
        let slow = watch.looks_at_slow_path();
        for thread in 0..=shared.lines.len() {
            let is_slow = thread == shared.lines.len();
            // The end of a packet that a trace follows is not what the filter asked for.
            let filter =
                if is_slow && wanted.point == Point::Trace { wanted.filter.of_frames() } else { wanted.filter.clone() };
            let order = Order {
                filter,
                point: wanted.point,
                snaplen: wanted.snaplen,
                wanted: watch.rest(is_slow),
                span: watch.left(),
            };
            let (records, octets) = watch.room(is_slow);
            let make = || (!is_slow || slow).then(|| Lens::new(order.clone(), records, octets));
            watch.spare.push(make());
            let lens = make();
            if is_slow {
                shared.exchange_slow(lens)?;
            } else {
                shared.lines[thread].observe(lens).map_err(|silent| format!("worker {thread}: {silent}"))?;
            }
        }
        Ok(watch)
    }

    fn run(mut self, outlet: &Outlet) -> Result<(), String> {
        let names = self.names.back();
        let begun = v1::ObservationBegun {
            node: String::new(),
            ports: names.map(|names| names.ports().map(str::to_owned).collect()).unwrap_or_default(),
            generation: names.map_or(0, Names::generation),
        };
        let mut going = send(outlet, Item::Begun(begun));
        while going && self.told < self.wanted.count && Instant::now() < self.deadline {
            std::thread::sleep(ROUND.min(self.deadline.saturating_duration_since(Instant::now())));
            going = !outlet.is_closed() && self.round(outlet)?;
        }
        if going && !self.open.is_empty() && self.looks_at_slow_path() {
            std::thread::sleep(AFTERMATH);
            going = self.slow_round(outlet)?;
        }
        if going {
            let ended = if self.told < self.wanted.count { "timeout" } else { "count" };
            let end = v1::ObservationEnd { packets: self.told, missed: self.missed, ended: ended.into() };
            send(outlet, Item::End(end));
        }
        Ok(())
    }

    /// Everybody's lens once. False: nobody listens any more.
    fn round(&mut self, outlet: &Outlet) -> Result<bool, String> {
        let mut seen = Vec::new();
        for worker in 0..self.shared.lines.len() {
            let fresh = self.fresh(worker);
            let used =
                self.shared.lines[worker].observe(fresh).map_err(|silent| format!("worker {worker}: {silent}"))?;
            if let Some(lens) = used {
                self.note(&lens);
                seen.push((worker, lens));
            }
        }
        // After the exchange: whatever the workers ran under has names now.
        self.renew_names();
        let mut order: Vec<(u64, usize, usize)> = seen
            .iter()
            .enumerate()
            .flat_map(|(at, (_, lens))| lens.records.iter().enumerate().map(move |(nth, record)| (record.now, at, nth)))
            .collect();
        order.sort_unstable();
        let mut going = true;
        for (_, at, nth) in order {
            let (worker, lens) = &seen[at];
            let record = &lens.records[nth];
            going = going && self.tell(outlet, &format!("worker {worker}"), record, lens.copy(record));
        }
        for (worker, lens) in seen {
            self.spare[worker] = Some(lens);
        }
        Ok(going && (!self.looks_at_slow_path() || self.slow_round(outlet)?))
    }

    fn slow_round(&mut self, outlet: &Outlet) -> Result<bool, String> {
        let slow = self.shared.lines.len();
        let fresh = self.fresh(slow);
        let Some(lens) = self.shared.exchange_slow(fresh)? else { return Ok(true) };
        let mut going = true;
        if self.wanted.point != Point::Trace {
            self.note(&lens);
        }
        for record in &lens.records {
            going = going
                && if self.wanted.point == Point::Trace {
                    self.tell_end(outlet, record)
                } else {
                    self.tell(outlet, "slow path", record, lens.copy(record))
                };
        }
        self.spare[slow] = Some(lens);
        Ok(going)
    }

    /// The spare lens of a thread, emptied.
    fn fresh(&mut self, thread: usize) -> Option<Box<Lens>> {
        let (rest, left) = (self.rest(thread == self.shared.lines.len()), self.left());
        let mut lens = self.spare[thread].take()?;
        lens.renew(rest, left);
        Some(lens)
    }

    fn note(&mut self, lens: &Lens) {
        self.missed += lens.missed;
        // The worker's time of its answer, which came just now.
        self.epoch = self.epoch.or_else(|| SystemTime::now().checked_sub(Duration::from_nanos(lens.now)));
    }

    fn renew_names(&mut self) {
        let newest = self.names.back().map_or(0, Names::generation);
        self.names.extend(self.shared.names(newest));
        while self.names.len() > 2 {
            self.names.pop_front();
        }
    }

    /// Tells of a packet, unless there are enough. False: nobody listens any more.
    fn tell(&mut self, outlet: &Outlet, thread: &str, record: &Record, copy: &[u8]) -> bool {
        if self.told == self.wanted.count {
            return true;
        }
        self.told += 1;
        if let (Point::Trace, End::Punted(_)) = (self.wanted.point, record.end) {
            self.open.push_back((self.told, record.seen.key));
            if self.open.len() > OPEN_ENDS {
                self.open.pop_front();
            }
        }
        let generation = record.stages.as_ref().map_or(0, |stages| stages.generation);
        let unknown = Names::default();
        // Ports keep their slots, so any generation's names will do where no stage judged.
        let names = match generation {
            0 => self.names.back(),
            generation => self.names.iter().find(|names| names.generation() == generation),
        };
        let mut packet = packet(record, names.unwrap_or(&unknown));
        packet.number = self.told;
        packet.thread = thread.into();
        packet.at = self.epoch.map(|epoch| (epoch + Duration::from_nanos(record.now)).into());
        packet.octets = copy.to_vec();
        if names.is_none() {
            let detail = format!("generation {generation} was replaced before its names were asked for");
            packet.steps = vec![v1::WhyStep { stage: "observe".into(), object: "names".into(), detail }];
        }
        send(outlet, Item::Packet(packet))
    }

    /// Tells what the slow path did with a packet that was traced.
    fn tell_end(&mut self, outlet: &Outlet, record: &Record) -> bool {
        let Some(at) = self.open.iter().position(|(_, key)| *key == record.seen.key) else { return true };
        let Some((number, _)) = self.open.remove(at) else { return true };
        let (reason, description) = record.end.reason();
        send(
            outlet,
            Item::SlowPath(v1::SlowPathEnd {
                number,
                fate: record.end.label().into(),
                reason: reason.into(),
                reason_description: description.into(),
            }),
        )
    }

    fn looks_at_slow_path(&self) -> bool {
        matches!(self.wanted.point, Point::Trace | Point::Drop)
    }

    /// Packets still wanted of a thread. The slow path's ends of a trace are not counted.
    fn rest(&self, slow: bool) -> usize {
        if slow && self.wanted.point == Point::Trace { usize::MAX } else { (self.wanted.count - self.told) as usize }
    }

    fn left(&self) -> u64 {
        self.deadline.saturating_duration_since(Instant::now()).as_nanos() as u64
    }

    fn room(&self, slow: bool) -> (usize, usize) {
        let records = RECORDS.min(self.rest(slow));
        (records, OCTETS.min(records * self.wanted.snaplen))
    }
}

fn send(outlet: &Outlet, item: Item) -> bool {
    outlet.blocking_send(Ok(v1::Observation { item: Some(item) })).is_ok()
}

fn packet(record: &Record, names: &Names) -> v1::ObservedPacket {
    let (seen, key) = (&record.seen, &record.seen.key);
    let address = |address| if seen.kind == Kind::Other { String::new() } else { to_ip(address).to_string() };
    let (reason, description) = record.end.reason();
    let step = |step: marchproxy_engine::why::Step| v1::WhyStep {
        stage: step.stage.into(),
        object: step.object,
        detail: step.detail,
    };
    v1::ObservedPacket {
        port: seen.port.map(|port| names.port(port).to_owned()).unwrap_or_default(),
        interface: record.stages.as_ref().map(|s| names.interface(s.head.interface).to_owned()).unwrap_or_default(),
        generation: record.stages.as_ref().map_or(0, |stages| stages.generation),
        length: record.length,
        frame: render::frame(seen),
        src: address(key.src),
        dst: address(key.dst),
        protocol: key.protocol.into(),
        src_port: key.sport.into(),
        dst_port: key.dport.into(),
        vlan: seen.vlan.into(),
        fate: record.end.label().into(),
        reason: reason.into(),
        reason_description: description.into(),
        out_port: record.out.map(|(port, _)| names.port(port).to_owned()).unwrap_or_default(),
        end: render::end(record, names),
        steps: render::steps(record, names).into_iter().map(step).collect(),
        ..v1::ObservedPacket::default()
    }
}

fn within(field: &str, value: u32, default: u32, most: u32) -> Result<u32, String> {
    match value {
        0 => Ok(default),
        value if value <= most => Ok(value),
        value => Err(format!("{field}: found {value}, allowed: 1 to {most}")),
    }
}

fn span(timeout_ms: u32) -> Result<Duration, String> {
    within("timeout_ms", timeout_ms, TIMEOUT_MS, TIMEOUT_MAX_MS).map(|ms| Duration::from_millis(ms.into()))
}

//! Attaching to an interface: modes, other programs, losing the process, leaving nothing behind.

use marchproxy_xdp::{Mode, ModeWish, OnDaemonLoss, Options, PortFacts, Steering, XdpError};
use nix::mount::{MsFlags, mount, umount};

use crate::support::{in_namespace, run, veth, xdp};

fn attached() -> bool {
    let output = std::process::Command::new("ip").args(["link", "show", "dev", "ours"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("xdp")
}

#[test]
fn it_is_attached_natively_or_as_asked_and_leaves_nothing() {
    let Some(xdp) = xdp() else { return };
    in_namespace(move || {
        let ifindex = veth();
        let steering = Steering::attach(&xdp, ifindex, &Options::default()).unwrap();
        assert_eq!((steering.mode(), attached()), (Mode::Native, true));
        drop(steering);
        assert!(!attached());

        let generic = Options { mode: ModeWish::Only(Mode::Generic), ..Default::default() };
        let steering = Steering::attach(&xdp, ifindex, &generic).unwrap();
        assert_eq!((steering.mode(), attached()), (Mode::Generic, true));
        drop(steering);
        assert!(!attached());
    });
}

#[test]
fn a_driver_that_refuses_leaves_the_generic_mode() {
    let Some(xdp) = xdp() else { return };
    in_namespace(move || {
        let ifindex = veth();
        // Too large for the driver: a packet has to fit into a page.
        run("ip link set theirs mtu 9000");
        run("ip link set ours mtu 9000");
        let native = Options { mode: ModeWish::Only(Mode::Native), ..Default::default() };
        let error = Steering::attach(&xdp, ifindex, &native).unwrap_err();
        assert!(matches!(error, XdpError::NotAttached { .. }), "{error}");
        assert!(error.to_string().contains("native: "), "{error}");
        let steering = Steering::attach(&xdp, ifindex, &Options::default()).unwrap();
        assert_eq!(steering.mode(), Mode::Generic);
    });
}

#[test]
fn another_program_is_named_and_left_alone() {
    let Some(xdp) = xdp() else { return };
    in_namespace(move || {
        let ifindex = veth();
        let first = Steering::attach(&xdp, ifindex, &Options::default()).unwrap();
        for mode in [ModeWish::Best, ModeWish::Only(Mode::Generic)] {
            let error = Steering::attach(&xdp, ifindex, &Options { mode, ..Default::default() }).unwrap_err();
            let XdpError::Busy { program, id, mode, .. } = &error else { panic!("{error}") };
            assert_eq!((program.as_str(), *mode), ("marchproxy", "native mode"));
            assert!(*id > 0 && error.to_string().contains("ip link set dev IF xdp off"), "{error}");
        }
        assert!(attached());
        drop(first);
        assert!(!attached());
    });
}

#[test]
fn an_interface_that_goes_takes_the_program_with_it() {
    let Some(xdp) = xdp() else { return };
    in_namespace(move || {
        let ifindex = veth();
        let steering = Steering::attach(&xdp, ifindex, &Options::default()).unwrap();
        run("ip link set ours down");
        run("ip link set ours name ours2");
        run("ip link set ours2 up");
        run("ip link del ours2");
        steering.configure(&PortFacts::default()).unwrap();
        drop(steering);
        let error = Steering::attach(&xdp, ifindex, &Options::default()).unwrap_err();
        assert!(matches!(error, XdpError::NoInterface { .. }), "{error}");
    });
}

/// A BPF file system of the test's own.
struct BpfFs(tempfile::TempDir);

impl BpfFs {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        match mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>) {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                eprintln!("skipped: no BPF file system can be mounted ({error})");
                None
            }
        }
    }

    fn pins(&self) -> usize {
        std::fs::read_dir(self.0.path().join("marchproxy")).map_or(0, Iterator::count)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = umount(self.0.path());
    }
}

#[test]
fn a_lost_daemon_leaves_what_was_asked_for() {
    let Some(xdp) = xdp() else { return };
    in_namespace(move || {
        let Some(bpf_fs) = BpfFs::mount() else { return };
        let ifindex = veth();
        let path = bpf_fs.0.path().to_owned();
        let options = |on_daemon_loss| Options { on_daemon_loss, bpf_fs: path.clone(), ..Default::default() };
        Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Pass)).unwrap().leave();
        assert_eq!((attached(), bpf_fs.pins()), (false, 0));

        Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Drop)).unwrap().leave();
        assert_eq!((attached(), bpf_fs.pins()), (true, 1));
        // Its successor takes over, and takes all away when it stops.
        let next = Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Drop)).unwrap();
        assert_eq!((attached(), bpf_fs.pins(), next.mode()), (true, 1, Mode::Native));
        drop(next);
        assert_eq!((attached(), bpf_fs.pins()), (false, 0));

        // A successor that does not want to outlive itself; and one whose predecessor's interface is gone.
        Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Drop)).unwrap().leave();
        let next = Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Pass)).unwrap();
        assert_eq!((attached(), bpf_fs.pins()), (true, 0));
        drop(next);
        assert!(!attached());
        Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Drop)).unwrap().leave();
        run("ip link del ours");
        run(&format!("ip link add ours index {ifindex} type veth peer name theirs"));
        let next = Steering::attach(&xdp, ifindex, &options(OnDaemonLoss::Drop)).unwrap();
        assert_eq!((attached(), bpf_fs.pins()), (true, 1));
        drop(next);
        assert_eq!((attached(), bpf_fs.pins()), (false, 0));
    });
}

#[test]
fn without_a_bpf_file_system_a_program_cannot_stay() {
    let Some(xdp) = xdp() else { return };
    in_namespace(move || {
        let ifindex = veth();
        let directory = tempfile::tempdir().unwrap();
        let options =
            Options { on_daemon_loss: OnDaemonLoss::Drop, bpf_fs: directory.path().into(), ..Default::default() };
        let error = Steering::attach(&xdp, ifindex, &options).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf bpf"), "{error}");
        assert!(!attached() && std::fs::read_dir(directory.path()).unwrap().next().is_none());
    });
}

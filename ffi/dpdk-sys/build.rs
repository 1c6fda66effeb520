//! Finds libdpdk, compiles the shim over its inline functions, and generates bindings from the headers that are installed.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The oldest release whose ethdev names (`RTE_ETH_*`, `RTE_MBUF_F_*`) and hot-plug behaviour we rely on.
const OLDEST: (u32, u32) = (22, 11);

/// The libraries whose symbols we call; drivers are plugins that EAL opens itself. `rte_log` exists from 24.03 on.
/// Those of the first line are tables that the product's own are compared with; a program that does not use them is not linked to them.
const LIBRARIES: [&str; 12] = [
    "rte_fib",
    "rte_lpm",
    "rte_hash",
    "rte_acl",
    "rte_meter",
    "rte_sched",
    "rte_ethdev",
    "rte_mbuf",
    "rte_mempool",
    "rte_kvargs",
    "rte_log",
    "rte_eal",
];

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    for source in ["shim.c", "shim.h", "tables.c", "tables.h"] {
        println!("cargo:rerun-if-changed=src/{source}");
    }
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Cargo shows stderr of a failed build script in full, and `cargo::error` as the headline.
            println!("cargo::error={reason}");
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    check_version(&pkg_config("--modversion")?)?;
    let cflags = pkg_config("--cflags")?;
    let flags: Vec<&str> = cflags.split_whitespace().collect();
    compile_shim(&flags);
    link(&pkg_config("--libs")?);
    generate(&flags)
}

/// Runs pkg-config on libdpdk; tells a missing tool from a missing library.
fn pkg_config(question: &str) -> Result<String, String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&tool)
        .args([question, "libdpdk"])
        .output()
        .map_err(|error| format!("cannot run {tool} ({error}): apt-get install pkg-config"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        return Err(format!(
            "libdpdk not found: apt-get install dpdk libdpdk-dev, or build without the `dpdk` feature (pkg-config: {said})"
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn check_version(found: &str) -> Result<(), String> {
    let mut parts = found.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < OLDEST {
        let (year, month) = OLDEST;
        return Err(format!(
            "libdpdk {found} is too old, {year}.{month} or newer is needed: apt-get install libdpdk-dev on Debian 12 or newer"
        ));
    }
    Ok(())
}

fn compile_shim(flags: &[&str]) {
    let mut build = cc::Build::new();
    // The shim is the hot path's border: optimised in every profile.
    build.file("src/shim.c").file("src/tables.c").opt_level(3).warnings(true).extra_warnings(true);
    for flag in flags {
        // DPDK's headers are the system's: their warnings are not ours to fix.
        match flag.strip_prefix("-I") {
            Some(directory) => build.flag("-isystem").flag(directory),
            None => build.flag(flag),
        };
    }
    build.compile("marchproxy_dpdk_shim");
}

fn link(libs: &str) {
    for flag in libs.split_whitespace() {
        if let Some(directory) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={directory}");
        }
        if let Some(name) = flag.strip_prefix("-l").filter(|name| LIBRARIES.contains(name)) {
            println!("cargo:rustc-link-lib={name}");
        }
    }
}

fn generate(flags: &[&str]) -> Result<(), String> {
    // bindgen panics when it can't open libclang; the hook keeps its backtrace from burying our message.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let clang = std::panic::catch_unwind(bindgen::clang_version);
    std::panic::set_hook(hook);
    clang.map_err(|_| {
        "libclang not found, bindgen needs it: apt-get install libclang-dev clang (or set LIBCLANG_PATH)".to_owned()
    })?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run through cargo")?);
    bindgen::Builder::default()
        .header("src/shim.h")
        .header("src/tables.h")
        .clang_args(flags)
        .allowlist_function(FUNCTIONS)
        .allowlist_function("mp_.*")
        .allowlist_type("mp_.*|rte_eth_event_type|rte_eth_rx_mq_mode")
        .allowlist_var("MP_.*")
        // Their layouts change between releases (anonymous unions, bit fields) or hold nothing we read: `MP_MBUF_*` offsets
        // and the shim stand for them.
        .opaque_type("rte_mbuf|rte_mempool|rte_device|rte_devargs")
        // Packed structs with aligned members, which Rust can't express.
        .opaque_type("rte_arp_ipv4|rte_arp_hdr|rte_l2tpv2_combined_msg_hdr|rte_l2tpv2_common_hdr")
        // Handles: what is behind them is DPDK's own.
        .opaque_type("rte_fib|rte_hash|rte_acl_ctx|rte_sched_port")
        // Never used: they only ride along in rte_eth_conf and rte_eth_dev_info.
        .opaque_type("rte_eth_vmdq_.*|rte_eth_dcb_.*|rte_eth_switch_info|rte_eth_rxseg_capa")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .formatter(bindgen::Formatter::None)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new().rerun_on_header_files(false)))
        .generate()
        .map_err(|error| format!("cannot read DPDK's headers: {error} (apt-get install libclang-dev clang)"))?
        .write_to_file(out.join("bindings.rs"))
        .map_err(|error| format!("cannot write bindings to {}: {error}", out.display()))
}

/// What the safe crate calls; a longer list only makes generated code larger.
const FUNCTIONS: &str = concat!(
    "rte_eal_(init|cleanup|hotplug_add|hotplug_remove)|rte_version|rte_strerror",
    "|rte_dev_name|rte_socket_(count|id_by_idx)|rte_thread_(un)?register|rte_malloc_get_socket_stats",
    "|rte_log_cur_msg_loglevel",
    "|rte_mempool_(avail_count|lookup|free)|rte_pktmbuf_(pool_create|free_bulk)",
    "|rte_eth_dev_(info_get|configure|adjust_nb_rx_tx_desc|start|stop|close|socket_id|set_mtu|get_mtu)",
    "|rte_eth_dev_(default_mac_addr_set|callback_register|callback_unregister|rss_reta_update|rss_reta_query)",
    "|rte_eth_(find_next|rx_queue_setup|tx_queue_setup|macaddr_get|promiscuous_enable|promiscuous_disable)",
    "|rte_eth_(promiscuous_get|stats_get|stats_reset|xstats_get|xstats_get_names|tx_done_cleanup)",
    "|rte_fib_(add|free|lookup_bulk)|rte_hash_(add_key_data|free|lookup_bulk_data)|rte_acl_free",
    "|rte_sched_port_(dequeue|free)",
);

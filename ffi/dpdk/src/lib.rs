//! Safe DPDK: EAL, mempools, mbufs, ports; implements the engine's IO traits.

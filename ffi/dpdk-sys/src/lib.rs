//! Raw bindings to the distribution's libdpdk, generated at build time.

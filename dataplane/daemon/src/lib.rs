//! The data-plane daemon: ports, pinned workers, agent, slow path.

//! The control plane: model, store, compile, api; marchctl.

//! Runs plans on a GPU through wgpu.

//! Turns compiled WebAssembly into an ES module with types: `cargo run -p xtask -- IN.wasm OUT_DIR`.
//! Drives wasm-bindgen as a library, so that its version always equals the one in `Cargo.lock`.

use wasm_bindgen_cli_support::Bindgen;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(wasm), Some(out_dir), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: xtask IN.wasm OUT_DIR");
        std::process::exit(2);
    };
    let result = Bindgen::new().input_path(wasm).web(true).and_then(|bindgen| {
        bindgen
            .omit_default_module_path(false) // the module finds its .wasm beside itself
            .typescript(true)
            .remove_name_section(true)
            .remove_producers_section(true)
            .generate(out_dir)
    });
    if let Err(error) = result {
        eprintln!("xtask: {error:#}");
        std::process::exit(1);
    }
}

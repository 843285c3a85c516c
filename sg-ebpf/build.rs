//! How bpf-linker generates code.

fn main() {
    // By default it leaves `memset` of any size a call, and that is a loop over
    // bytes: a quarter of the time of an allowed packet.
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}

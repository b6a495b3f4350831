#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::caps::listeners_know_what_is_reached(&mut arbitrary::Unstructured::new(bytes));
});

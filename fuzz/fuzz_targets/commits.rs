#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::commits::announce_every_crossing(&mut arbitrary::Unstructured::new(bytes));
});

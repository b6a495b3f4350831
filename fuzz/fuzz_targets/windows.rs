#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::caps::windows_are_sums_over_rows(&mut arbitrary::Unstructured::new(bytes));
});

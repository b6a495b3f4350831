//! The calling convention of C functions that are declared in SQL by hand.

/// Declares the calling convention of C functions, as the macro `PG_FUNCTION_INFO_V1` does.
macro_rules! function_info_v1 {
    ($($finfo:ident),*) => {$(
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C-unwind" fn $finfo() -> *const pgrx::pg_sys::Pg_finfo_record {
            static V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &raw const V1
        }
    )*};
}

pub(super) use function_info_v1;

//! `jsonb` arguments that are arrays of objects, for calls with very many items.
//!
//! Keys and values are borrowed from the argument. Numbers keep their digits, and texts stay in the encoding of the database.

use std::marker::PhantomData;
use std::slice;

use pgrx::pg_sys;

use super::value::Value;

/// The most keys of an object that are read: more than an item has.
const MAX_KEYS: usize = 16;

/// A JSON array.
pub struct Array<'call> {
    container: *mut pg_sys::JsonbContainer,
    lifetime: PhantomData<&'call ()>,
}

/// A JSON value.
#[derive(Clone, Copy)]
pub struct Json<'call> {
    value: pg_sys::JsonbValue,
    lifetime: PhantomData<&'call ()>,
}

/// A JSON value that is neither an array nor an object.
pub enum Scalar<'call> {
    /// `null`
    Null,
    /// A string: its bytes, in the encoding of the database.
    Text(&'call [u8]),
    /// A number, as `numeric`.
    Number(Value<'call>),
    /// `true` or `false`
    Bool(bool),
    /// An array or an object.
    None,
}

/// The key of an object and its value.
pub type Pair<'call> = (&'call [u8], Json<'call>);

// From utils/jsonb.h, without the guard that pgrx puts around each call: one stands around all calls for an array or object.
unsafe extern "C-unwind" {
    fn JsonbIteratorInit(container: *mut pg_sys::JsonbContainer) -> *mut pg_sys::JsonbIterator;
    fn JsonbIteratorNext(
        iterator: *mut *mut pg_sys::JsonbIterator,
        value: *mut pg_sys::JsonbValue,
        skip_nested: bool,
    ) -> pg_sys::JsonbIteratorToken::Type;
}

impl<'call> Array<'call> {
    /// The value if it is an array.
    ///
    /// # Safety
    /// `datum` is a `jsonb` that outlives the value.
    pub(super) unsafe fn from_datum(datum: pg_sys::Datum) -> Option<Self> {
        // SAFETY: the caller's promise; what is compressed or out of line is copied.
        let (container, header) = unsafe {
            let json = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
            (&raw mut (*json).root, (*json).root.header)
        };
        let is_array = header & pg_sys::JB_FARRAY != 0 && header & pg_sys::JB_FSCALAR == 0;
        is_array.then_some(Self { container, lifetime: PhantomData })
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        // SAFETY: the array outlives this value.
        (unsafe { (*self.container).header } & pg_sys::JB_CMASK) as usize
    }

    /// Its elements.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn elements(&self) -> Vec<Json<'call>> {
        let mut elements = vec![pg_sys::JsonbValue::default(); self.len()];
        let places: &mut [pg_sys::JsonbValue] = &mut elements;
        let container = self.container;
        // SAFETY: the array outlives this value. An error of the server jumps over frames without destructors only.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let mut iterator = JsonbIteratorInit(container);
                let mut begin = pg_sys::JsonbValue::default();
                JsonbIteratorNext(&raw mut iterator, &raw mut begin, true);
                for place in places {
                    JsonbIteratorNext(&raw mut iterator, place, true);
                }
            });
        }
        elements.into_iter().map(|value| Json { value, lifetime: PhantomData }).collect()
    }
}

impl<'call> Json<'call> {
    /// The keys and values if it is an object; the first 16 of them if there are more.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn object(&self) -> Option<Vec<Pair<'call>>> {
        let container = self.nested().filter(|&container| {
            // SAFETY: the container outlives this value.
            unsafe { (*container).header & pg_sys::JB_FOBJECT != 0 }
        })?;
        let mut pairs = [(pg_sys::JsonbValue::default(), pg_sys::JsonbValue::default()); MAX_KEYS];
        let places = &mut pairs;
        // SAFETY: the object outlives this value. An error of the server jumps over frames without destructors only.
        let count = unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let mut iterator = JsonbIteratorInit(container);
                let mut begin = pg_sys::JsonbValue::default();
                JsonbIteratorNext(&raw mut iterator, &raw mut begin, true);
                let mut count = 0;
                for (key, value) in places {
                    let token = JsonbIteratorNext(&raw mut iterator, key, true);
                    if token != pg_sys::JsonbIteratorToken::WJB_KEY {
                        break;
                    }
                    JsonbIteratorNext(&raw mut iterator, value, true);
                    count += 1;
                }
                count
            })
        };
        let pair = |(key, value): &(pg_sys::JsonbValue, pg_sys::JsonbValue)| {
            // SAFETY: a key is a string, which belongs to the object.
            (unsafe { bytes(key) }, Self { value: *value, lifetime: PhantomData })
        };
        Some(pairs.iter().take(count).map(pair).collect())
    }

    fn nested(&self) -> Option<*mut pg_sys::JsonbContainer> {
        let is_nested = self.value.type_ == pg_sys::jbvType::jbvBinary;
        // SAFETY: the type says that the union has this variant. It is read in any case, and every variant is as long.
        is_nested.then_some(unsafe { self.value.val.binary.data })
    }

    /// The value, if it is neither an array nor an object.
    pub fn scalar(&self) -> Scalar<'call> {
        // SAFETY: the type says what the value is.
        unsafe {
            match self.value.type_ {
                pg_sys::jbvType::jbvNull => Scalar::Null,
                pg_sys::jbvType::jbvString => Scalar::Text(bytes(&self.value)),
                pg_sys::jbvType::jbvNumeric => {
                    Scalar::Number(Value::of(pg_sys::NUMERICOID, self.value.val.numeric.into()))
                }
                pg_sys::jbvType::jbvBool => Scalar::Bool(self.value.val.boolean),
                _ => Scalar::None,
            }
        }
    }

    /// The value itself, as `jsonb`.
    pub fn as_jsonb(&self) -> Value<'call> {
        let mut value = self.value;
        // SAFETY: makes a copy in the current memory context, which is the call's.
        let copy = unsafe { pg_sys::JsonbValueToJsonb(&raw mut value) };
        Value::of(pg_sys::JSONBOID, copy.into())
    }

    /// The kind of the value, for messages.
    pub fn kind(&self) -> &'static str {
        match self.scalar() {
            Scalar::Null => "null",
            Scalar::Text(_) => "a string",
            Scalar::Number(_) => "a number",
            Scalar::Bool(_) => "a boolean",
            Scalar::None if self.object().is_some() => "an object",
            Scalar::None => "an array",
        }
    }
}

/// # Safety
/// The value is a string that outlives `'a`.
unsafe fn bytes<'a>(value: &pg_sys::JsonbValue) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe {
        let string = value.val.string;
        slice::from_raw_parts(string.val.cast(), usize::try_from(string.len).unwrap_or_default())
    }
}

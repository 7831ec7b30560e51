//! For tests: every field that the `oci-spec` types know, found by deserializing one of each.
//!
//! serde tells a deserializer a struct's field names before it reads any. This one writes them down, makes up a value
//! of each type, and so walks the whole configuration, whatever version of `oci-spec` is built in.

use std::cell::RefCell;

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

/// The dotted path of every leaf: `[]` follows a list's name, `{}` a map's.
pub fn leaves() -> Vec<String> {
    let found = RefCell::new(Vec::new());
    let walker = Walker { path: String::new(), found: &found };
    Spec::deserialize(walker).expect("a made-up configuration deserializes");
    let mut found = found.into_inner();
    found.sort();
    found.dedup();
    found
}

#[derive(Clone)]
struct Walker<'a> {
    path: String,
    found: &'a RefCell<Vec<String>>,
}

impl Walker<'_> {
    fn child(&self, name: &str) -> Self {
        let path = match (self.path.is_empty(), name.starts_with(['[', '{'])) {
            (true, _) => name.to_owned(),
            (false, true) => format!("{}{name}", self.path),
            (false, false) => format!("{}.{name}", self.path),
        };
        Self { path, found: self.found }
    }

    fn leaf(&self) {
        self.found.borrow_mut().push(self.path.clone());
    }
}

/// A string that suits the field: where `oci-spec` parses it further, it is a capability's name or a list of processors.
fn text(path: &str) -> &'static str {
    if path.contains("Affinity") { "0" } else { "CAP_CHOWN" }
}

macro_rules! scalars {
    ($($function:ident => $visit:ident($value:expr);)*) => {
        $(fn $function<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.$visit($value)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Walker<'_> {
    type Error = Error;

    scalars! {
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_i64(0);
        deserialize_i16 => visit_i64(0);
        deserialize_i32 => visit_i64(0);
        deserialize_i64 => visit_i64(0);
        deserialize_u8 => visit_u64(0);
        deserialize_u16 => visit_u64(0);
        deserialize_u32 => visit_u64(0);
        deserialize_u64 => visit_u64(0);
        deserialize_f32 => visit_f64(0.0);
        deserialize_f64 => visit_f64(0.0);
        deserialize_char => visit_char('x');
        deserialize_bytes => visit_bytes(b"x");
        deserialize_byte_buf => visit_bytes(b"x");
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_str(text(&self.path))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Entries { walker: self, names: vec!["[]"] })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Entries { walker: self, names: vec!["[]"; length] })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { walker: self, names: vec!["{}"] })
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { walker: self, names: fields.iter().rev().copied().collect() })
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, variants: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        let first: StrDeserializer<'_, Error> = variants[0].into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("x")
    }
}

/// The made-up entries of a list, a map or a struct, last one first.
struct Entries<'a> {
    walker: Walker<'a>,
    names: Vec<&'static str>,
}

impl<'de> de::SeqAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.names.pop().map(|name| seed.deserialize(self.walker.child(name))).transpose()
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.last() else { return Ok(None) };
        // A map's key is made up; a struct's is its field's name.
        if *name == "{}" {
            let text: StrDeserializer<'_, Error> = "0".into_deserializer();
            return seed.deserialize(text).map(Some);
        }
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let name = self.names.pop().expect("a value follows its key");
        seed.deserialize(self.walker.child(name))
    }
}

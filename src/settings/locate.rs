//! Where a key stands in a YAML text: the parser tells positions only of errors, so the walk fails at the key looked for.

use std::collections::BTreeSet;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Line and column of the key `path` (its keys joined by dots), from 1.
pub fn key(text: &str, path: &str) -> Option<(usize, usize)> {
    walk(text, &|here, _| here == path)
}

/// Line and column of the first key that its mapping has already.
pub fn repeated(text: &str) -> Option<(usize, usize)> {
    walk(text, &|_, first| !first)
}

/// Called for each key with its path, and whether it is the first of that name in its mapping.
type Wanted<'a> = &'a dyn Fn(&str, bool) -> bool;

fn walk(text: &str, wanted: Wanted<'_>) -> Option<(usize, usize)> {
    let error = Walk { path: String::new(), wanted }.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.location().map(|place| (place.line(), place.column()))
}

struct Walk<'a> {
    path: String,
    wanted: Wanted<'a>,
}

macro_rules! scalars {
    ($value:ty: $($method:ident $type:ty),*) => {
        $(fn $method<E: Error>(self, _: $type) -> Result<$value, E> { Ok(Default::default()) })*
    };
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    scalars!((): visit_bool bool, visit_i64 i64, visit_u64 u64, visit_i128 i128, visit_u128 u128, visit_f64 f64, visit_str &str);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Walk { path: format!("{}[]", self.path), wanted: self.wanted })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(path) = map.next_key_seed(Key { above: &self.path, seen: &mut seen, wanted: self.wanted })? {
            map.next_value_seed(Walk { path, wanted: self.wanted })?;
        }
        Ok(())
    }
}

struct Key<'a> {
    above: &'a str,
    seen: &'a mut BTreeSet<String>,
    wanted: Wanted<'a>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    // As a string: a plain 8080 as a key is read as it is written.
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        let path = if self.above.is_empty() { name.to_owned() } else { format!("{}.{name}", self.above) };
        let first = self.seen.insert(name.to_owned());
        if (self.wanted)(&path, first) { Err(E::custom("here")) } else { Ok(path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "mode: commit\nprofiles:\n  ci:\n    env: {A: 1, B: [x, y]}\n    8080: ~\n";

    #[test]
    fn a_key_is_found_at_its_line_and_column() {
        let table = [
            ("mode", Some((1, 1))),
            ("profiles.ci", Some((3, 3))),
            ("profiles.ci.env.B", Some((4, 17))),
            ("profiles.ci.8080", Some((5, 5))),
            ("env", None),
        ];
        for (path, expected) in table {
            assert_eq!(key(TEXT, path), expected, "{path}");
        }
    }

    #[test]
    fn a_repeated_key_is_found_where_it_stands_the_second_time() {
        assert_eq!(repeated(TEXT), None);
        assert_eq!(repeated("a: {x: 1}\nb: {x: 1}\na: 2\n"), Some((3, 1)));
        assert_eq!(repeated("a:\n  x: 1\n  y: 1\n  x: 2\n"), Some((4, 3)));
    }
}

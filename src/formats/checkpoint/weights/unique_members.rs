//! Reading a JSON object whose keys must not repeat.

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

/// Collects the members of a JSON object.
pub(super) trait UniqueMembers: Default {
    /// Describes the object in errors, such as "an object of tensors".
    const EXPECTED: &'static str;

    /// Adds the member `key`, whose value is the next one of `map`.
    fn add<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error>;
}

/// Reads an object.
///
/// # Errors
/// A key that occurs twice; a value that does not fit.
pub(super) fn unique_members<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: UniqueMembers,
    D: Deserializer<'de>,
{
    struct MembersVisitor<T>(PhantomData<T>);

    impl<'de, T: UniqueMembers> Visitor<'de> for MembersVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let (mut object, mut seen) = (T::default(), HashSet::new());
            while let Some(key) = map.next_key::<String>()? {
                if !seen.insert(key.clone()) {
                    return Err(A::Error::custom(format!("'{key}' occurs twice")));
                }
                object.add(key, &mut map)?;
            }
            Ok(object)
        }
    }

    deserializer.deserialize_map(MembersVisitor(PhantomData))
}

//! Golden queries as objects of the store: create-only, a version each, named by their content; the newest is in force.
//!
//! Deliberately absent: an object that says which is the newest, which would be a second one that changes: a listing
//! tells. Earlier versions stay as long as the collection, as those of its settings do.

use bytes::Bytes;
use verdigris_core::names::CollectionName;
use verdigris_core::queries::golden::{self, GoldenName, GoldenQuery};
use verdigris_store::{ReadError, Store, collection as objects, keys};

/// Golden queries in force.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Golden {
    /// 0 where there never were any.
    pub(crate) version: u64,
    pub(crate) queries: Vec<GoldenQuery>,
}

/// Why golden queries cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GoldenError {
    /// The store says so.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The object is not what was written.
    #[error("golden queries in {key} are damaged")]
    Damaged {
        /// The object.
        key: String,
    },
}

/// The golden queries in force.
pub(crate) async fn read(store: &dyn Store, collection: &CollectionName) -> Result<Golden, GoldenError> {
    let names = versions(store, collection).await?;
    let Some(newest) = names.last() else {
        return Ok(Golden::default());
    };
    let key = keys::object(collection, &newest.path());
    let bytes = objects::whole(store, &key).await.map_err(ReadError::from)?;
    let damaged = || GoldenError::Damaged { key: key.clone() };
    if GoldenName::of(newest.version, &bytes) != *newest {
        return Err(damaged());
    }
    let queries = match bytes.is_empty() {
        true => Vec::new(),
        false => golden::parse(&bytes).map_err(|_| damaged())?,
    };
    Ok(Golden {
        version: newest.version,
        queries,
    })
}

/// Puts these in force; none takes all away. The version, which is the one before where nothing changes.
pub(crate) async fn write(
    store: &dyn Store,
    collection: &CollectionName,
    queries: &[GoldenQuery],
) -> Result<u64, GoldenError> {
    let names = versions(store, collection).await?;
    let content = golden::encode(queries);
    let before = names.last().map_or(0, |newest| newest.version);
    let is_same = names
        .last()
        .is_some_and(|newest| *newest == GoldenName::of(before, &content));
    if is_same || (names.is_empty() && queries.is_empty()) {
        return Ok(before);
    }
    let name = GoldenName::of(before + 1, &content);
    let key = keys::object(collection, &name.path());
    objects::create_once(store, &key, Bytes::from(content))
        .await
        .map_err(ReadError::from)?;
    Ok(name.version)
}

/// All versions, the one in force last. Two that were set at one moment have one number; their names decide.
async fn versions(store: &dyn Store, collection: &CollectionName) -> Result<Vec<GoldenName>, ReadError> {
    let folder = keys::folder(collection);
    let prefix = keys::object(collection, GoldenName::FOLDER);
    let listed = objects::list_all(store, &prefix).await?;
    let path = |key: &str| key.strip_prefix(&folder).and_then(GoldenName::parse);
    let mut names: Vec<GoldenName> = listed.iter().filter_map(|object| path(&object.key)).collect();
    names.sort_by_key(GoldenName::path);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use verdigris_store::memory::MemoryStore;

    use super::*;

    fn name() -> CollectionName {
        "products".parse().unwrap()
    }

    fn queries(text: &str) -> Vec<GoldenQuery> {
        golden::parse(text.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn the_newest_version_is_in_force_and_the_same_again_is_none() {
        let store = MemoryStore::default();
        assert_eq!(read(&store, &name()).await.unwrap(), Golden::default());
        assert_eq!(write(&store, &name(), &[]).await.unwrap(), 0, "nothing to take away");
        for n in 1..=8_u64 {
            let queries = queries(&format!("drill {n}\ta"));
            assert_eq!(write(&store, &name(), &queries).await.unwrap(), n);
            assert_eq!(write(&store, &name(), &queries).await.unwrap(), n, "nothing changes");
            assert_eq!(read(&store, &name()).await.unwrap(), Golden { version: n, queries });
        }
        assert_eq!(write(&store, &name(), &[]).await.unwrap(), 9);
        let none = Golden {
            version: 9,
            queries: Vec::new(),
        };
        assert_eq!(read(&store, &name()).await.unwrap(), none);
        assert_eq!(write(&store, &name(), &queries("drill 8\ta")).await.unwrap(), 10);
    }

    #[tokio::test]
    async fn a_version_that_is_not_what_was_written_is_told() {
        let store = MemoryStore::default();
        write(&store, &name(), &queries("drill\ta")).await.unwrap();
        let key = objects::list_all(&store, "products/queries/").await.unwrap()[0]
            .key
            .clone();
        let body = verdigris_store::Body::Bytes(Bytes::from_static(b"drill\tb\n"));
        store.put(&key, body, verdigris_store::Precondition::Any).await.unwrap();
        let error = read(&store, &name()).await.unwrap_err();
        assert!(matches!(error, GoldenError::Damaged { key: found } if found == key));
    }
}

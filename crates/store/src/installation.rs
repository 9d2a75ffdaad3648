use domain::{IdKey, LaneId};

use crate::{Database, Error};

/// What was fixed when the database was installed.
#[derive(Clone, Debug)]
pub struct Installation {
    /// How many lanes there are.
    pub lanes: u16,
    /// The key of the ids' tags.
    pub id_key: IdKey,
}

impl Installation {
    /// All lanes.
    pub fn lane_ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lanes).map(LaneId)
    }
}

impl Database {
    /// What the installation is; the first to ask makes it, with `lanes` lanes.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn install(&self, lanes: u16, fresh_key: [u8; 16]) -> Result<Installation, Error> {
        const INSTALL: &str =
            "insert into installation (lanes, id_key) values ($1, $2) on conflict do nothing";
        let lanes = i16::try_from(lanes).unwrap_or(i16::MAX);
        let insert = sqlx::query(INSTALL)
            .bind(lanes)
            .bind(fresh_key.as_slice())
            .execute(&self.pool);
        self.timed("install", "insert", insert).await?;
        let select = sqlx::query_as("select lanes, id_key from installation").fetch_one(&self.pool);
        let (lanes, key): (i16, Vec<u8>) = self.timed("installation", "select", select).await?;
        let inconsistent = |what: String| Error::Inconsistent {
            table: "installation",
            what,
        };
        let id_key = <[u8; 16]>::try_from(key)
            .map_err(|key| inconsistent(format!("id_key has {} bytes, not 16", key.len())))?;
        let lanes = u16::try_from(lanes).map_err(|_| inconsistent(format!("{lanes} lanes")))?;
        Ok(Installation {
            lanes,
            id_key: IdKey::new(id_key),
        })
    }
}

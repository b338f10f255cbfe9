//! The settings that a pointer names: those of what answers, and those of the lineage beside it.

use crate::manifest::{LineageId, SettingsReference};
use crate::pointer::{EditRefused, Pointer};
use crate::timestamp::Timestamp;

impl Pointer {
    /// New settings, to be put into force by the next publish; those of the lineage beside, whose rows were written by
    /// others, come with them. Both were chosen by `read`: what fits the rows of one lineage may not fit those of
    /// another, so a pointer that names others meanwhile refuses them.
    pub fn set_settings(
        &self,
        read: &Self,
        settings: SettingsReference,
        beside: Option<SettingsReference>,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_deleted()?;
        if self.settled() != read.settled() {
            return Err(EditRefused::SettingsMoved);
        }
        let mut next = self.next(nonce, now);
        next.settings = settings;
        if let Some(settings) = beside {
            if next.other.is_some() {
                next.other_settings = Some(settings);
            } else if let Some(build) = next.builds.first_mut() {
                build.settings = settings;
            }
        }
        Ok(next)
    }

    /// What settings are chosen by: those in force, and the lineages that they are for.
    fn settled(
        &self,
    ) -> (
        &SettingsReference,
        Option<&LineageId>,
        Option<(&LineageId, &SettingsReference)>,
    ) {
        let active = self.active.as_ref().map(|active| &active.lineage);
        (&self.settings, active, self.beside())
    }

    /// The lineage beside the active one, built or named, and its settings.
    pub fn beside(&self) -> Option<(&LineageId, &SettingsReference)> {
        let build = self.builds.first().map(|build| (&build.lineage, &build.settings));
        let other = self.other.as_ref();
        let other = other.map(|other| (&other.lineage, self.other_settings.as_ref().unwrap_or(&self.settings)));
        other.or(build)
    }

    /// The highest version of settings that this pointer names.
    pub fn newest_settings_version(&self) -> u64 {
        let beside = self.beside().map_or(0, |(_, settings)| settings.version);
        self.settings.version.max(beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::pointer::{LineagePointer, LineageRole, ManifestReference};

    fn settings(version: u64) -> SettingsReference {
        SettingsReference {
            version,
            digest: Digest::of(b"settings"),
        }
    }

    fn lineage(name: &str, role: LineageRole) -> LineagePointer {
        let manifest = ManifestReference {
            path: format!("releases/{name}.json"),
            digest: Digest::of(name.as_bytes()),
        };
        LineagePointer {
            lineage: LineageId::from(name.to_owned()),
            generation: 1,
            manifest,
            role,
            since: Timestamp(1),
        }
    }

    fn pointer(active: &str, other: Option<&str>) -> Pointer {
        let name = "products".parse().expect("valid");
        let mut pointer = Pointer::first(name, settings(1), "n1".to_owned(), Timestamp(1));
        pointer.active = Some(lineage(active, LineageRole::Active));
        pointer.other = other.map(|other| lineage(other, LineageRole::Candidate));
        pointer.other_settings = other.map(|_| settings(2));
        pointer
    }

    fn set(pointer: &Pointer, read: &Pointer) -> Result<Pointer, EditRefused> {
        let beside = read.other.as_ref().map(|_| settings(3));
        pointer.set_settings(read, settings(3), beside, "n2".to_owned(), Timestamp(2))
    }

    #[test]
    fn settings_of_both_lineages_change_together() {
        let before = pointer("one", Some("two"));
        let after = set(&before, &before).expect("nothing moved");
        assert_eq!((after.settings, after.other_settings), (settings(3), Some(settings(3))));
    }

    #[test]
    fn settings_that_were_chosen_by_others_are_refused() {
        let now = pointer("one", Some("two"));
        let mut changed = now.clone();
        changed.settings = settings(2);
        for read in [pointer("two", Some("one")), pointer("one", None), changed] {
            assert_eq!(set(&now, &read), Err(EditRefused::SettingsMoved));
        }
    }

    #[test]
    fn a_publish_meanwhile_is_no_reason_to_refuse_settings() {
        let read = pointer("one", None);
        let mut now = read.clone();
        now.generation = 2;
        now.active = Some(LineagePointer {
            generation: 2,
            ..lineage("one", LineageRole::Active)
        });
        assert!(set(&now, &read).is_ok());
    }
}

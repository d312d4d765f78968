//! What a route wants of whoever asks.

use troupe_ports::Role;

/// Whom a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: it tells nothing, or proves by itself who may ask.
    Open,
    /// Every key; everybody where `metrics_open` is set.
    Metrics,
    /// Viewers and those above.
    Viewer,
    /// Operators and those above.
    Operator,
    /// Operators and those above, and workers.
    Worker,
    /// Editors and administrators.
    Editor,
    /// Administrators.
    Admin,
    /// Other members of the deployment, who sign what they ask; no key is enough.
    Member,
}

impl Access {
    /// Whether a key of this role is enough.
    #[must_use]
    pub fn admits(self, role: Role) -> bool {
        let least = match self {
            Self::Open | Self::Metrics => return true,
            Self::Member => return false,
            Self::Worker if role == Role::Worker => return true,
            Self::Viewer => Role::Viewer,
            Self::Operator | Self::Worker => Role::Operator,
            Self::Editor => Role::Editor,
            Self::Admin => Role::Admin,
        };
        role >= least
    }

    /// Whom it answers, for people.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Open => "nothing",
            Self::Metrics => "any key",
            Self::Viewer => "the role viewer, operator, editor or admin",
            Self::Operator => "the role operator, editor or admin",
            Self::Worker => "the role worker, operator, editor or admin",
            Self::Editor => "the role editor or admin",
            Self::Admin => "the role admin",
            Self::Member => "the signature of a member of the deployment",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_contain_each_other_and_workers_stand_beside() {
        let admitted = |access: Access| -> Vec<&str> {
            let roles = Role::ALL.into_iter().filter(|role| access.admits(*role));
            roles.map(Role::name).collect()
        };
        let all = ["worker", "viewer", "operator", "editor", "admin"];
        assert_eq!(admitted(Access::Open), all);
        assert_eq!(admitted(Access::Metrics), all);
        assert_eq!(admitted(Access::Viewer), all[1..]);
        assert_eq!(admitted(Access::Operator), all[2..]);
        assert_eq!(admitted(Access::Worker), ["worker", "operator", "editor", "admin"]);
        assert_eq!(admitted(Access::Editor), all[3..]);
        assert_eq!(admitted(Access::Admin), all[4..]);
        assert!(admitted(Access::Member).is_empty());
    }
}

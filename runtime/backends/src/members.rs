//! The register of members inside one process, for engines that share a store there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use troupe_ports::{Member, Membership, StoreError};

/// Members of one process, by name.
#[derive(Debug, Default)]
pub struct InProcessMembers(Mutex<Register>);

#[derive(Debug, Default)]
struct Register {
    members: BTreeMap<String, (Member, Instant)>,
    secrets: BTreeMap<String, Vec<u8>>,
}

impl Register {
    fn live(&mut self) -> Vec<Member> {
        let now = Instant::now();
        self.members.retain(|_, (_, until)| *until > now);
        self.members.values().map(|(member, _)| member.clone()).collect()
    }
}

#[async_trait]
impl Membership for InProcessMembers {
    async fn announce(&self, member: &Member, ttl: Duration) -> Result<Vec<Member>, StoreError> {
        let mut register = self.0.lock();
        let until = Instant::now() + ttl;
        register.members.insert(member.name.clone(), (member.clone(), until));
        Ok(register.live())
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        Ok(self.0.lock().live())
    }

    async fn leave(&self, name: &str) -> Result<(), StoreError> {
        self.0.lock().members.remove(name);
        Ok(())
    }

    async fn secret(&self, name: &str, proposed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut register = self.0.lock();
        let secret = register.secrets.entry(name.to_owned());
        Ok(secret.or_insert_with(|| proposed.to_vec()).clone())
    }
}

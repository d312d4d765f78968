//! Which node takes the calls of an address: a projection of the latest definitions.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use troupe_core::WorkflowId;
use troupe_core::definition::{Node, NodeKind, WebhookSettings, WorkflowDefinition};
use troupe_lang::schema::Schema;
use troupe_lang::template::DataTemplate;
use troupe_ports::{DefinitionError, DefinitionStore, StoredDefinition};

/// How often an unknown address has the definitions read again: what another process stored is found by then.
const READ_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// Definitions read at once.
const PAGE: usize = 200;
/// How often definitions may change under a reader before the next call reads them.
const READS_MAX: u32 = 3;

/// What a call does at its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookRole {
    /// The node is a root: the call starts an execution.
    Starts,
    /// The node waits: the call goes on with an execution.
    Resumes,
}

/// A node that takes calls.
#[derive(Debug)]
pub(crate) struct Hook {
    /// Last part of its address.
    pub(crate) id: String,
    pub(crate) workflow: WorkflowId,
    pub(crate) version: u32,
    pub(crate) node: String,
    pub(crate) role: HookRole,
    pub(crate) settings: WebhookSettings,
    /// What calls are signed with, under `secret`.
    pub(crate) secret: Option<DataTemplate>,
    payload_schema: Option<Value>,
    compiled: OnceLock<Result<Schema, String>>,
}

impl Hook {
    fn of(stored: &StoredDefinition, node: &Node) -> Option<Self> {
        let settings = node.webhook().ok()?;
        let secret = settings.secret.as_ref();
        let secret = secret.map(|secret| DataTemplate::compile(&json!({ "secret": secret })));
        let definition = &stored.definition;
        let role = if definition.edges.iter().any(|edge| edge.target == node.id) {
            HookRole::Resumes
        } else {
            HookRole::Starts
        };
        let id = settings.id.clone();
        Some(Self {
            id: id.unwrap_or_else(|| WebhookSettings::default_id(&definition.id, &node.id)),
            workflow: stored.workflow.clone(),
            version: stored.version,
            node: node.id.clone(),
            role,
            settings,
            secret: secret.transpose().ok()?,
            payload_schema: node.field("payloadSchema").cloned(),
            compiled: OnceLock::new(),
        })
    }

    /// What bodies must fit, compiled at the first call.
    pub(crate) fn payload_schema(&self) -> Option<&Result<Schema, String>> {
        let source = self.payload_schema.as_ref()?;
        let compile = || Schema::compile(source).map_err(|error| error.message);
        Some(self.compiled.get_or_init(compile))
    }
}

/// Finds the nodes of an address.
#[derive(Debug, Default)]
pub(crate) struct HookIndex {
    known: RwLock<Known>,
    /// One reads the definitions at a time, the others wait for it.
    reading: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<String, Vec<Arc<Hook>>>,
    ids_of: HashMap<WorkflowId, Vec<String>>,
    read_at: Option<Instant>,
    changes: u64,
}

impl Known {
    fn remove(&mut self, workflow: &WorkflowId) {
        for id in self.ids_of.remove(workflow).unwrap_or_default() {
            if let Some(hooks) = self.by_id.get_mut(&id) {
                hooks.retain(|hook| hook.workflow != *workflow);
                if hooks.is_empty() {
                    self.by_id.remove(&id);
                }
            }
        }
    }

    fn put(&mut self, stored: &StoredDefinition) {
        self.remove(&stored.workflow);
        if stored.archived {
            return;
        }
        let nodes = webhooks(&stored.definition);
        let hooks: Vec<Arc<Hook>> = nodes.filter_map(|node| Hook::of(stored, node)).map(Arc::new).collect();
        if hooks.is_empty() {
            return;
        }
        let ids = hooks.iter().map(|hook| hook.id.clone()).collect();
        self.ids_of.insert(stored.workflow.clone(), ids);
        for hook in hooks {
            self.by_id.entry(hook.id.clone()).or_default().push(hook);
        }
    }
}

fn webhooks(definition: &WorkflowDefinition) -> impl Iterator<Item = &Node> {
    definition
        .nodes
        .iter()
        .filter(|node| node.kind() == Some(NodeKind::Webhook))
}

impl HookIndex {
    /// A definition was stored, or restored.
    pub(crate) fn stored(&self, stored: &StoredDefinition) {
        let mut known = self.known.write();
        known.changes += 1;
        known.put(stored);
    }

    /// A workflow was archived: it takes no calls.
    pub(crate) fn archived(&self, workflow: &str) {
        let mut known = self.known.write();
        known.changes += 1;
        known.remove(&WorkflowId::from(workflow));
    }

    /// The nodes that take the calls of an address. Several are a mistake that only the whole store shows.
    ///
    /// # Errors
    /// When the definitions cannot be read.
    pub(crate) async fn find(
        &self,
        id: &str,
        definitions: &dyn DefinitionStore,
    ) -> Result<Vec<Arc<Hook>>, DefinitionError> {
        if let Some(found) = self.look(id) {
            return Ok(found);
        }
        let reading = self.reading.lock().await;
        // Whoever had the turn before may have found it.
        if let Some(found) = self.look(id) {
            return Ok(found);
        }
        self.read(definitions).await?;
        drop(reading);
        Ok(self.known.read().by_id.get(id).cloned().unwrap_or_default())
    }

    /// What is known of an address; none when the definitions have to be read for it.
    fn look(&self, id: &str) -> Option<Vec<Arc<Hook>>> {
        let known = self.known.read();
        let read_at = known.read_at?;
        match known.by_id.get(id) {
            Some(hooks) => Some(hooks.clone()),
            None => (read_at.elapsed() < READ_AGAIN_EVERY).then(Vec::new),
        }
    }

    async fn read(&self, definitions: &dyn DefinitionStore) -> Result<(), DefinitionError> {
        for _ in 0..READS_MAX {
            let changes = self.known.read().changes;
            let mut read = Known::default();
            let mut after: Option<WorkflowId> = None;
            loop {
                let after_text = after.as_ref().map(WorkflowId::as_str);
                let page = definitions.list(after_text, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.workflow.clone());
                page.iter().for_each(|stored| read.put(stored));
            }
            let mut known = self.known.write();
            if known.changes == changes {
                read.read_at = Some(Instant::now());
                read.changes = changes;
                *known = read;
                return Ok(());
            }
        }
        Err(DefinitionError::Unavailable(
            "the definitions change faster than they can be read".to_owned(),
        ))
    }
}

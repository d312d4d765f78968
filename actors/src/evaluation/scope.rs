//! What an expression sees, bound only as far as it looks.

use troupe_core::definition::NodeKind;
use troupe_core::execution::Scope;
use troupe_core::{BlobRef, ErrorInfo, Json, Parts, Value};
use troupe_lang::{Binding, Names, Record, Uses};

use super::{EXPRESSION_ERROR, NoScope};
use crate::blobs::{Contents, blobs_of};
use crate::resume::ResumeLinks;

/// Reads values, and notes which large ones have yet to be loaded.
struct Reader<'c> {
    contents: &'c Contents,
    needs: Vec<BlobRef>,
}

impl<'c> Reader<'c> {
    fn new(contents: &'c Contents) -> Self {
        Self {
            contents,
            needs: Vec::new(),
        }
    }

    /// What was read, if nothing is to be loaded before.
    fn all<T>(self, read: T) -> Result<T, NoScope> {
        if self.needs.is_empty() {
            Ok(read)
        } else {
            Err(NoScope::Needs(self.needs))
        }
    }

    fn binding(&mut self, value: &'c Value) -> Result<Binding<'c>, ErrorInfo> {
        match value {
            Value::Inline(json) => Ok(Binding::text(json.as_str())),
            Value::Blob(blob) => Ok(match self.contents.get(blob) {
                Some(content) => Binding::text(content.as_str()),
                None => self.missing(blob),
            }),
            Value::Composed(composed) => match composed.parts() {
                Parts::Object(members) => {
                    let mut record = Record::new();
                    for (name, member) in members {
                        record.set(name, self.binding(member)?);
                    }
                    Ok(record.into())
                }
                Parts::List(_) => Ok(parsed(&self.document(value))?.into()),
            },
        }
    }

    fn missing(&mut self, blob: &BlobRef) -> Binding<'static> {
        self.needs.push(*blob);
        serde_json::Value::Null.into()
    }

    /// The whole document; null while some of it is to be loaded.
    fn document(&mut self, value: &Value) -> Json {
        let contents = self.contents;
        let mut missing = blobs_of(value);
        missing.retain(|blob| contents.get(blob).is_none());
        let document = value.document(&|blob| contents.get(blob).cloned());
        self.needs.append(&mut missing);
        document.unwrap_or_else(|_| Json::null())
    }
}

/// Binds the names that `uses` lists.
pub(super) fn bind<'a>(
    uses: &Uses,
    scope: &Scope<'a>,
    links: Option<&ResumeLinks>,
    contents: &'a Contents,
) -> Result<troupe_lang::Scope<'a>, NoScope> {
    let mut reader = Reader::new(contents);
    let mut bound = troupe_lang::Scope::new();
    if let Some(input) = scope.input.filter(|_| uses.input) {
        bound.set("input", reader.binding(input)?);
    }
    if let Some(output) = scope.output.filter(|_| uses.output) {
        bound.set("output", reader.binding(output)?);
    }
    if uses.trigger {
        bound.set("trigger", reader.binding(&scope.state.input)?);
    }
    if let Some(error) = scope.error.filter(|_| uses.error) {
        bound.set("error", parsed(&error.to_json())?);
    }
    if uses.execution {
        bound.set("execution", parsed(&scope.execution())?);
    }
    if !uses.resume_urls.is_none() {
        let urls = resume_urls(&uses.resume_urls, scope, links)?;
        bound.set("resumeUrls", serde_json::Value::Object(urls));
    }
    if !uses.variables.is_none() {
        let mut variables = Record::new();
        for (name, value) in scope
            .state
            .variables
            .iter()
            .filter(|(name, _)| uses.variables.contains(name))
        {
            variables.set(name, reader.binding(value)?);
        }
        bound.set("variables", variables);
    }
    if !uses.nodes.is_none() {
        let mut nodes = Record::new();
        for key in node_keys(&uses.nodes, scope) {
            if let Some(node) = node_record(key, scope, &mut reader)? {
                nodes.set(key, node);
            }
        }
        bound.set("nodes", nodes);
    }
    reader.all(bound)
}

fn parsed(json: &Json) -> Result<serde_json::Value, ErrorInfo> {
    json.to_value()
        .map_err(|error| ErrorInfo::new(EXPRESSION_ERROR, error.to_string()))
}

/// Keys of the plan's nodes that are touched, in order of the definition.
fn node_keys<'a>(names: &Names, scope: &Scope<'a>) -> Vec<&'a str> {
    let plan = scope.plan;
    match names {
        Names::None => Vec::new(),
        Names::Some(names) => {
            let found = names.iter().filter_map(|name| plan.node_ix(name));
            found.map(|ix| plan.node(ix).key.as_str()).collect()
        }
        Names::All => plan.nodes.iter().map(|node| node.key.as_str()).collect(),
    }
}

/// The addresses at which the nodes that are named can be called, where they wait.
fn resume_urls(
    names: &Names,
    scope: &Scope<'_>,
    links: Option<&ResumeLinks>,
) -> Result<serde_json::Map<String, serde_json::Value>, ErrorInfo> {
    let refused = |why: String| Err(ErrorInfo::new(EXPRESSION_ERROR, why));
    let Some(links) = links else {
        return refused("`resumeUrls` needs a server that can be called".to_owned());
    };
    let waits = |key: &str| {
        let node = scope.plan.node_ix(key).map(|ix| scope.plan.node(ix));
        node.is_some_and(|node| node.kind == NodeKind::Webhook && node.trigger.is_none())
    };
    if let Names::Some(names) = names
        && let Some(name) = names.iter().find(|name| !waits(name))
    {
        return refused(format!("`resumeUrls.{name}`: no node of that id waits for a call"));
    }
    let keys = node_keys(names, scope).into_iter().filter(|key| waits(key));
    let urls = keys.map(|key| (key.to_owned(), links.url(scope.state.id, key).into()));
    Ok(urls.collect())
}

fn node_record<'a>(key: &str, scope: &Scope<'a>, reader: &mut Reader<'a>) -> Result<Option<Record<'a>>, ErrorInfo> {
    let Some((status, output, error)) = scope.latest(key) else {
        return Ok(None);
    };
    let mut record = Record::new().with("status", serde_json::Value::from(status));
    if let Some(output) = output {
        record.set("output", reader.binding(output)?);
    }
    if let Some(error) = error {
        record.set("error", parsed(&error.to_json())?);
    }
    Ok(Some(record))
}

/// The same names as one JSON object, for the sandbox.
pub(super) fn object(
    uses: &Uses,
    scope: &Scope<'_>,
    links: Option<&ResumeLinks>,
    contents: &Contents,
) -> Result<Json, NoScope> {
    let mut reader = Reader::new(contents);
    let mut members: Vec<(&str, Json)> = Vec::new();
    if let Some(input) = scope.input.filter(|_| uses.input) {
        members.push(("input", reader.document(input)));
    }
    if let Some(output) = scope.output.filter(|_| uses.output) {
        members.push(("output", reader.document(output)));
    }
    if uses.trigger {
        members.push(("trigger", reader.document(&scope.state.input)));
    }
    if let Some(error) = scope.error.filter(|_| uses.error) {
        members.push(("error", error.to_json()));
    }
    if uses.execution {
        members.push(("execution", scope.execution()));
    }
    if !uses.resume_urls.is_none() {
        let urls = resume_urls(&uses.resume_urls, scope, links)?;
        members.push(("resumeUrls", Json::of(&urls.into())));
    }
    if !uses.variables.is_none() {
        let variables = scope
            .state
            .variables
            .iter()
            .filter(|(name, _)| uses.variables.contains(name));
        let variables = variables.map(|(name, value)| (name.as_str(), reader.document(value)));
        let variables: Vec<_> = variables.collect();
        members.push((
            "variables",
            Json::object(variables.iter().map(|(name, json)| (*name, json))),
        ));
    }
    if !uses.nodes.is_none() {
        let mut nodes = Vec::new();
        for key in node_keys(&uses.nodes, scope) {
            let Some((status, output, error)) = scope.latest(key) else {
                continue;
            };
            let status = Json::of(&serde_json::Value::from(status));
            let error = error.map(ErrorInfo::to_json);
            let output = output.map(|output| reader.document(output));
            let members = [
                ("status", Some(&status)),
                ("output", output.as_ref()),
                ("error", error.as_ref()),
            ];
            nodes.push((
                key,
                Json::object(members.into_iter().filter_map(|(name, json)| Some((name, json?)))),
            ));
        }
        members.push(("nodes", Json::object(nodes.iter().map(|(key, json)| (*key, json)))));
    }
    reader.all(Json::object(members.iter().map(|(name, json)| (*name, json))))
}

//! Clauses of [`DefinitionStore`].

use troupe_core::definition::WorkflowDefinition;
use troupe_core::{Json, Timestamp};

use super::Fixture;
use crate::definitions::{DefinitionError, DefinitionStore, StoredDefinition};

type DefinitionFixture<'a> = &'a dyn Fixture<dyn DefinitionStore>;

/// As a client sends it, so that reading it back gives an equal one.
fn definition(id: &str, description: &str) -> WorkflowDefinition {
    let text = serde_json::json!({
        "id": id,
        "name": format!("Workflow {id}"),
        "description": description,
        "nodes": [
            { "id": "start", "type": "trigger", "name": "Start", "version": 1, "data": {} },
            { "id": "work", "type": "function", "name": "Work", "version": 1, "data": { "foreign": [1.5, null, "x"] } },
        ],
        "edges": [{ "id": "e1", "source": "start", "target": "work" }],
        "settings": { "timeout": 1_000 },
        "fieldOfAnotherTool": { "kept": true },
    });
    serde_json::from_value(text).expect("the sample is well-formed")
}

fn analysis(text: &str) -> Json {
    Json::of(&serde_json::json!({ "of": text }))
}

async fn put(store: &dyn DefinitionStore, id: &str, description: &str) -> StoredDefinition {
    let stored = store
        .put(definition(id, description), analysis(description), None, Timestamp(7))
        .await;
    stored.expect("a definition can be stored")
}

async fn get(store: &dyn DefinitionStore, id: &str, version: Option<u32>) -> Option<StoredDefinition> {
    store.get(id, version).await.expect("a definition can be looked up")
}

/// Each change is the next version, set in the definition; older ones stay as they were.
pub async fn versions_count_from_one_and_do_not_change(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    assert!(get(&*store, "orders", None).await.is_none());
    for (version, description) in [(1, "first"), (2, "second"), (3, "third")] {
        let stored = put(&*store, "orders", description).await;
        assert_eq!((stored.version, stored.definition.version), (version, version));
        assert_eq!((stored.workflow.as_str(), stored.stored_at), ("orders", Timestamp(7)));
    }
    assert_eq!(put(&*store, "refunds", "first").await.version, 1);
    for (asked, version, description) in [(Some(1), 1, "first"), (Some(2), 2, "second"), (None, 3, "third")] {
        let found = get(&*store, "orders", asked).await.expect("the version is there");
        assert_eq!(found.version, version);
        assert_eq!(
            *found.definition,
            WorkflowDefinition {
                version,
                ..definition("orders", description)
            }
        );
        assert_eq!(found.analysis.as_str(), analysis(description).as_str());
    }
    assert!(get(&*store, "orders", Some(4)).await.is_none());
    assert!(get(&*store, "orders", Some(0)).await.is_none());
}

/// Version, dates and the carried analysis do not make a definition new; going back to an older text does.
pub async fn an_equal_definition_is_no_new_version(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    put(&*store, "orders", "first").await;
    let mut same = definition("orders", "first");
    same.version = 17;
    same.metadata.created_at = Some("2026-11-22T00:00:00Z".to_owned());
    same.metadata.updated_at = Some("2026-11-23T00:00:00Z".to_owned());
    same.processed_graph = Some(serde_json::json!({ "levels": [] }));
    let stored = store
        .put(same, analysis("again"), Some(1), Timestamp(99))
        .await
        .expect("an equal one is accepted");
    assert_eq!((stored.version, stored.stored_at), (1, Timestamp(7)));
    assert_eq!(put(&*store, "orders", "second").await.version, 2);
    assert_eq!(put(&*store, "orders", "first").await.version, 3);
}

/// Tags, author and foreign metadata are what their authors wrote: a change of them is stored.
pub async fn edited_metadata_is_a_new_version(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    put(&*store, "orders", "first").await;
    let mut edited = definition("orders", "first");
    let mut version = 1;
    let edits: [fn(&mut WorkflowDefinition); 3] = [
        |edited| edited.metadata.tags = vec!["billing".to_owned()],
        |edited| edited.metadata.created_by = Some("somebody".to_owned()),
        |edited| {
            edited.metadata.extra.insert("team".to_owned(), "orders".into());
        },
    ];
    for edit in edits {
        edit(&mut edited);
        version += 1;
        let stored = store.put(edited.clone(), analysis("first"), None, Timestamp(8)).await;
        assert_eq!(stored.expect("a definition can be stored").version, version);
        let found = get(&*store, "orders", None).await.expect("it is there");
        assert_eq!(found.definition.metadata, edited.metadata);
    }
}

/// The expected version must be the latest; otherwise nothing is stored and the latest is named.
pub async fn an_unexpected_version_conflicts(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    let attempt = async |expected, description| {
        let definition = definition("orders", description);
        store
            .put(definition, analysis(description), Some(expected), Timestamp(7))
            .await
            .map(|stored| stored.version)
    };
    assert!(matches!(
        attempt(1, "first").await,
        Err(DefinitionError::Conflict { latest: 0 })
    ));
    assert!(matches!(attempt(0, "first").await, Ok(1)));
    assert!(matches!(
        attempt(0, "second").await,
        Err(DefinitionError::Conflict { latest: 1 })
    ));
    assert!(matches!(
        attempt(0, "first").await,
        Err(DefinitionError::Conflict { latest: 1 })
    ));
    assert!(matches!(attempt(1, "second").await, Ok(2)));
    assert_eq!(get(&*store, "orders", None).await.map(|stored| stored.version), Some(2));
}

/// Two writers that saw the same version: one stores, the other conflicts.
pub async fn only_one_of_two_racing_writers_wins(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    for latest in 0..10 {
        let attempt = |text: &str| store.put(definition("orders", text), analysis(text), Some(latest), Timestamp(7));
        let (left, right) = (format!("left {latest}"), format!("right {latest}"));
        let (left, right) = futures::join!(attempt(&left), attempt(&right));
        assert!(left.is_ok() != right.is_ok(), "one winner: {left:?}, {right:?}");
    }
}

/// The flag shows in every version and list, survives new versions, and can be taken back.
pub async fn archiving_is_remembered(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    assert!(
        !store.archive("orders", true).await.expect("archiving answers"),
        "there is no such workflow"
    );
    put(&*store, "orders", "first").await;
    assert!(store.archive("orders", true).await.expect("archiving answers"));
    assert!(get(&*store, "orders", Some(1)).await.expect("it is there").archived);
    assert!(store.list(None, 10).await.expect("lists work")[0].archived);
    assert!(store.archive("orders", false).await.expect("archiving answers"));
    assert!(!get(&*store, "orders", None).await.expect("it is there").archived);
}

/// A stored definition can be started: storing a new or an equal one restores an archived workflow, a refused one does not.
pub async fn storing_a_definition_restores_its_workflow(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    put(&*store, "orders", "first").await;
    for (description, version) in [("second", 2), ("second", 2), ("third", 3)] {
        assert!(store.archive("orders", true).await.expect("archiving answers"));
        let conflict = store
            .put(
                definition("orders", description),
                analysis(description),
                Some(0),
                Timestamp(7),
            )
            .await;
        assert!(conflict.is_err(), "the workflow is there, if archived: {conflict:?}");
        assert!(get(&*store, "orders", None).await.expect("it is there").archived);
        let stored = put(&*store, "orders", description).await;
        assert_eq!((stored.version, stored.archived), (version, false));
        assert!(!get(&*store, "orders", None).await.expect("it is there").archived);
        assert!(!store.list(None, 10).await.expect("lists work")[0].archived);
    }
}

/// Pages of latest versions: in order of id, complete, without repetition.
pub async fn lists_are_paged_in_order_of_id(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    for number in (0..25).rev() {
        put(&*store, &format!("workflow-{number:02}"), "first").await;
    }
    put(&*store, "workflow-03", "second").await;
    let mut found: Vec<StoredDefinition> = Vec::new();
    loop {
        let after = found.last().map(|stored| stored.workflow.as_str().to_owned());
        let page = store.list(after.as_deref(), 10).await.expect("lists work");
        assert!(page.len() <= 10);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    let ids: Vec<_> = found.iter().map(|stored| stored.workflow.as_str()).collect();
    assert_eq!(
        ids,
        (0..25)
            .map(|number| format!("workflow-{number:02}"))
            .collect::<Vec<_>>()
    );
    assert_eq!(found[3].version, 2);
}

/// The store does not invent names.
pub async fn a_definition_without_an_id_is_refused(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    let refused = store
        .put(
            WorkflowDefinition {
                id: String::new(),
                ..definition("x", "first")
            },
            analysis("first"),
            None,
            Timestamp(7),
        )
        .await;
    assert!(matches!(refused, Err(DefinitionError::Refused(_))), "got {refused:?}");
}

/// Versions, texts and flags survive closing and opening.
pub async fn definitions_are_there_after_reopening(fixture: DefinitionFixture<'_>) {
    let store = fixture.open().await;
    put(&*store, "orders", "first").await;
    put(&*store, "orders", "second — with \"quotes\", \u{1F3AD} and a \0").await;
    store.archive("orders", true).await.expect("archiving answers");
    let before = get(&*store, "orders", None).await.expect("it is there");
    drop(store);
    let store = fixture.open().await;
    let after = get(&*store, "orders", None).await.expect("it is still there");
    assert_eq!(after.definition, before.definition);
    assert_eq!((after.version, after.archived), (2, true));
    assert_eq!(put(&*store, "orders", "third").await.version, 3);
}

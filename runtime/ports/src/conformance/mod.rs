//! One suite a store, run by every backend: plain async functions, one a clause of the contract.
//!
//! A function gets a fixture whose store is new and empty, and panics where the store breaks the clause. A macro a suite lists
//! its clauses and makes one test of each: `membership_conformance!(Register::new())`. A server that is not started anew for each
//! wants them in one test, by the type of their fixture: `membership_conformance!([troupe_ports::conformance_clauses] Register)`
//! are [`Clause`]s. Nothing here assumes that the store's clock agrees with the machine's.

pub mod audit;
pub mod blobs;
pub mod bus;
pub mod cached_outputs;
mod clause;
pub mod definitions;
pub mod epochs;
pub mod keys;
pub mod members;
pub mod semaphores;
pub mod source;
pub mod state_checkpoint;
pub mod state_format;
pub mod state_inbox;
pub mod state_log;
pub mod state_spool;
pub mod visibility;

use std::sync::Arc;

use async_trait::async_trait;
use troupe_core::{ExecutionId, ShardId, Timestamp};

pub use clause::{Clause, Running, run_all};

/// A store under test.
#[async_trait]
pub trait Fixture<S: ?Sized + Send + Sync>: Send + Sync {
    /// Opens the store; once that handle is dropped, another call opens the same store again.
    async fn open(&self) -> Arc<S>;
}

/// An id in `shard`; ids of rising `number` rise.
fn execution(shard: u16, number: u32) -> ExecutionId {
    ExecutionId::fresh(ShardId(shard), Timestamp(1_790_000_000_000), u64::from(number))
}

/// Makes one test of each clause; `$fixture` is evaluated anew in each.
#[macro_export]
macro_rules! conformance_tests {
    (($fixture:expr) $($suite:ident: $($clause:ident)*;)*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                let fixture = $fixture;
                $crate::conformance::$suite::$clause(&fixture).await;
            }
        )*)*
    };
}

/// Makes a list of the clauses instead, for fixtures of this type: [`crate::conformance::run_all`] runs them in one test.
#[macro_export]
macro_rules! conformance_clauses {
    (($fixture:ty) $($suite:ident: $($clause:ident)*;)*) => {
        ::std::vec![$($({
            fn run(fixture: &$fixture) -> $crate::conformance::Running<'_> {
                ::std::boxed::Box::pin($crate::conformance::$suite::$clause(fixture))
            }
            $crate::conformance::Clause::<$fixture>::new(stringify!($suite), stringify!($clause), run)
        },)*)*]
    };
}

/// The suite of [`crate::StateStore`].
#[macro_export]
macro_rules! state_store_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            state_log:
                positions_begin_at_one_and_have_no_gap
                only_one_of_many_racing_appends_wins
                records_are_read_in_order_within_a_byte_bound
                shards_are_independent
                a_large_record_comes_back_whole
                an_unknown_outcome_is_settled_by_the_commit_id
                an_owner_is_told_where_its_log_ends_and_by_whom
                a_former_owner_is_fenced_from_every_write
                a_lease_keeps_others_out_until_it_expires
                a_renewed_lease_keeps_others_out
                a_released_shard_is_free_at_once
                a_lease_tells_whether_the_shard_was_given_up
                an_issued_epoch_is_installed_if_it_is_higher
                the_holder_is_told_until_its_lease_expires
                a_shard_that_does_not_exist_is_refused
                cursors_never_go_back
                what_was_acknowledged_is_there_after_reopening;
            state_checkpoint:
                a_chunk_may_be_applied_twice
                the_checkpoint_position_moves_only_with_the_last_chunk
                overlap_is_kept_and_a_gap_refuses_the_whole_chunk
                an_ended_execution_keeps_its_whole_history
                an_ended_execution_does_not_come_back_to_life
                an_ended_execution_can_be_reopened
                only_its_latest_end_can_be_reopened
                trimming_stops_at_the_checkpoint
                trimming_stops_at_the_lowest_cursor
                a_cursor_at_its_beginning_keeps_the_log
                a_cursor_that_is_forgotten_keeps_nothing
                positions_are_not_used_again_after_trimming
                timers_come_earliest_first_and_follow_the_last_wait
                running_executions_are_paged_in_order_of_id
                heads_never_go_back
                archives_expire_to_tombstones_and_tombstones_expire
                expiring_twice_and_expiring_what_lives_change_nothing
                a_quarantine_lasts_until_it_is_taken_back
                a_large_checkpoint_is_there_after_reopening;
            state_spool:
                what_is_spooled_keeps_the_log_no_longer
                a_spool_comes_back_in_order_within_a_byte_bound
                a_spool_goes_with_the_cursor_of_its_sink
                a_chunk_that_is_covered_changes_nothing
                a_former_owner_cannot_spool
                a_spool_is_there_after_reopening
                a_spool_goes_with_a_forgotten_cursor;
            state_format:
                a_shard_holds_the_first_format_until_somebody_says_otherwise
                what_was_said_of_the_format_is_there_after_reopening
                a_former_owner_cannot_change_the_format_or_rewrite
                everything_that_lives_or_is_archived_is_listed
                what_lives_is_rewritten_if_it_has_the_same_seqs
                what_ended_is_rewritten_if_it_has_the_same_seqs
                a_chunk_of_a_spool_is_rewritten_if_it_is_there;
            state_inbox:
                an_inbox_is_read_in_order_of_arrival_within_a_byte_bound
                an_id_is_in_an_inbox_once
                an_inbox_is_bounded_by_items_and_by_bytes
                inboxes_of_shards_are_independent
                a_former_owner_removes_nothing
                racing_pushes_of_an_id_are_one
                an_inbox_is_there_after_reopening;
            blobs:
                a_blob_that_was_kept_is_there_after_reopening
                blobs_of_a_root_are_bounded_together
                a_former_owner_cannot_keep_blobs
                blobs_go_with_the_archive_of_their_root
                unconfirmed_blobs_are_listed_until_they_are_settled;
            cached_outputs:
                an_output_is_reused_until_it_expires
                the_output_that_was_not_used_for_longest_goes_first
                outputs_for_reuse_are_there_after_reopening;
        }
    };
    ($fixture:expr) => {
        $crate::state_store_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::DefinitionStore`].
#[macro_export]
macro_rules! definition_store_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            definitions:
                versions_count_from_one_and_do_not_change
                an_equal_definition_is_no_new_version
                edited_metadata_is_a_new_version
                an_unexpected_version_conflicts
                only_one_of_two_racing_writers_wins
                archiving_is_remembered
                storing_a_definition_restores_its_workflow
                lists_are_paged_in_order_of_id
                a_definition_without_an_id_is_refused
                definitions_are_there_after_reopening;
        }
    };
    ($fixture:expr) => {
        $crate::definition_store_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::VisibilityStore`]. Its fixture opens the [`crate::EpochAuthority`] of the same store, too.
#[macro_export]
macro_rules! visibility_store_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            visibility:
                a_lower_seq_never_overwrites_a_higher_one
                lists_are_newest_first_and_paged_without_loss
                filters_narrow_the_list
                an_id_prefix_finds_its_executions
                a_tag_finds_the_executions_that_have_it
                tags_follow_their_execution
                a_business_key_finds_its_executions
                a_text_is_found_wherever_it_stands
                characters_of_patterns_stand_for_themselves
                searches_combine_and_are_paged_without_loss
                forgotten_summaries_are_gone
                the_projected_position_never_goes_back
                the_projected_position_is_rewound_with_its_log
                a_correction_puts_lower_seqs_in_the_place_of_higher_ones
                a_correction_happens_whole_or_not_at_all
                a_former_owner_projects_nothing
                summaries_are_there_after_reopening;
        }
    };
    ($fixture:expr) => {
        $crate::visibility_store_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::EpochAuthority`].
#[macro_export]
macro_rules! epoch_authority_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            epochs:
                epochs_count_from_one
                a_candidate_that_looked_too_early_conflicts
                epochs_follow_what_the_state_store_has_seen
                only_one_of_many_racing_candidates_is_issued_an_epoch
                shards_are_ordered_independently
                epochs_are_there_after_reopening;
        }
    };
    ($fixture:expr) => {
        $crate::epoch_authority_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::Membership`].
#[macro_export]
macro_rules! membership_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            members:
                members_are_listed_as_they_were_announced_last
                members_go_when_their_time_is_over_or_they_leave
                the_first_secret_is_everybodys;
        }
    };
    ($fixture:expr) => {
        $crate::membership_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::Semaphores`].
#[macro_export]
macro_rules! semaphores_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            semaphores:
                so_many_hold_a_key_and_the_next_when_one_gives_it_back
                racing_askers_never_hold_more_than_the_limit
                each_asks_under_its_own_limit_and_nobody_passes_who_waits
                the_more_urgent_goes_first_then_the_older_then_the_first_to_ask
                who_asks_no_more_keeps_nobody_waiting
                a_hold_ends_with_its_time_unless_it_is_renewed
                a_hold_under_an_epoch_has_no_end_and_no_former_owner_ends_it
                what_runs_already_holds_whatever_the_limit
                what_a_former_owner_says_late_holds_nothing
                notes_of_a_shard_are_found_until_they_are_struck_out
                no_former_owner_changes_the_notes_of_its_successor;
        }
    };
    ($fixture:expr) => {
        $crate::semaphores_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::AuditLog`].
#[macro_export]
macro_rules! audit_log_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            audit:
                rows_come_back_as_they_were_recorded
                a_row_is_recorded_once_and_never_changed
                rows_are_listed_newest_first_and_paged_without_loss
                filters_narrow_the_rows;
        }
    };
    ($fixture:expr) => {
        $crate::audit_log_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::ApiKeyStore`].
#[macro_export]
macro_rules! api_key_store_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            keys:
                keys_come_back_as_they_were_kept
                a_key_is_kept_once_and_does_not_change
                a_name_belongs_to_one_key_that_is_not_revoked
                only_one_of_many_racing_keys_gets_a_name
                keys_are_paged_in_order_of_id
                a_revocation_is_for_good
                a_use_never_goes_back;
        }
    };
    ($fixture:expr) => {
        $crate::api_key_store_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::EventBus`]; the fixture is a [`bus::BusFixture`].
#[macro_export]
macro_rules! event_bus_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            bus:
                what_is_confirmed_arrives_unchanged
                events_of_an_execution_arrive_in_order
                callers_at_once_keep_their_order
                publishing_nothing_succeeds
                a_repeated_event_has_the_same_id
                events_of_the_system_arrive_in_order
                a_large_event_comes_through_whole;
        }
    };
    ($fixture:expr) => {
        $crate::event_bus_conformance! { [$crate::conformance_tests] $fixture }
    };
}

/// The suite of [`crate::EventSource`]; the fixture is a [`source::SourceFixture`].
#[macro_export]
macro_rules! event_source_conformance {
    ([$($make:tt)*] $($of:tt)*) => {
        $($make)*! { ($($of)*)
            source:
                accepted_messages_do_not_come_again
                unsettled_messages_come_again
                unsettled_messages_are_bounded
                rejected_messages_are_set_aside_with_the_reason
                a_message_is_settled_once;
        }
    };
    ($fixture:expr) => {
        $crate::event_source_conformance! { [$crate::conformance_tests] $fixture }
    };
}

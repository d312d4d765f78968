//! The WorkflowGraph analysis of the specification.

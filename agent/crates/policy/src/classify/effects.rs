//! What each kind of statement does by itself.

use bailiff_model::{EffectSet, SqlEffect};

/// Statements whose effects don't depend on what they hold, by the grammar's names. What they hold is walked as well.
pub(super) fn plain_effects(kind: &str) -> Option<EffectSet> {
    use SqlEffect::{Alter, Create, Drop, Execute, Grant, Read, Set, Transaction};
    let effects: &[SqlEffect] = match kind {
        "AlterCollationStmt"
        | "AlterDatabaseRefreshCollStmt"
        | "AlterDatabaseStmt"
        | "AlterDomainStmt"
        | "AlterEnumStmt"
        | "AlterEventTrigStmt"
        | "AlterExtensionContentsStmt"
        | "AlterExtensionStmt"
        | "AlterFdwStmt"
        | "AlterForeignServerStmt"
        | "AlterFunctionStmt"
        | "AlterObjectDependsStmt"
        | "AlterObjectSchemaStmt"
        | "AlterOpFamilyStmt"
        | "AlterOperatorStmt"
        | "AlterPublicationStmt"
        | "AlterSeqStmt"
        | "AlterStatsStmt"
        | "AlterSubscriptionStmt"
        | "AlterTableMoveAllStmt"
        | "AlterTableSpaceOptionsStmt"
        | "AlterTableStmt"
        | "AlterTsconfigurationStmt"
        | "AlterTsdictionaryStmt"
        | "AlterTypeStmt"
        | "AlterUserMappingStmt"
        | "ClusterStmt"
        | "CommentStmt"
        | "RefreshMatViewStmt"
        | "ReindexStmt"
        | "RenameStmt"
        | "ReplicaIdentityStmt"
        | "VacuumStmt" => &[Alter],
        "AlterDefaultPrivilegesStmt"
        | "AlterPolicyStmt"
        | "AlterRoleSetStmt"
        | "AlterRoleStmt"
        | "CreatePolicyStmt"
        | "CreateRoleStmt"
        | "DropRoleStmt"
        | "GrantRoleStmt"
        | "GrantStmt"
        | "ReassignOwnedStmt"
        | "SecLabelStmt" => &[Grant],
        // What is set for others is theirs to have.
        "AlterDatabaseSetStmt" | "AlterOwnerStmt" | "AlterSystemStmt" => &[Alter, Grant],
        "DropOwnedStmt" => &[Drop, Grant],
        "CompositeTypeStmt"
        | "CreateAmStmt"
        | "CreateCastStmt"
        | "CreateConversionStmt"
        | "CreateDomainStmt"
        | "CreateEnumStmt"
        | "CreateEventTrigStmt"
        | "CreateExtensionStmt"
        | "CreateFdwStmt"
        | "CreateForeignServerStmt"
        | "CreateForeignTableStmt"
        | "CreateFunctionStmt"
        | "CreateOpClassItem"
        | "CreateOpClassStmt"
        | "CreateOpFamilyStmt"
        | "CreatePlangStmt"
        | "CreatePLangStmt"
        | "CreatePublicationStmt"
        | "CreateRangeStmt"
        | "CreateSchemaStmt"
        | "CreateSeqStmt"
        | "CreateStatsStmt"
        | "CreateStmt"
        | "CreateSubscriptionStmt"
        | "CreateTableSpaceStmt"
        | "CreateTransformStmt"
        | "CreateTrigStmt"
        | "CreateUserMappingStmt"
        | "CreatedbStmt"
        | "DefineStmt"
        | "ImportForeignSchemaStmt"
        | "IndexStmt"
        | "RuleStmt"
        | "ViewStmt"
        | "CreateTableAsStmt" => &[Create],
        "DropStmt" | "DropSubscriptionStmt" | "DropTableSpaceStmt" | "DropUserMappingStmt" | "DropdbStmt" => {
            &[Drop]
        }
        "CallStmt" | "CheckPointStmt" | "DoStmt" | "ExecuteStmt" | "LoadStmt" | "NotifyStmt" => &[Execute],
        "ClosePortalStmt" | "ConstraintsSetStmt" | "DeallocateStmt" | "DeclareCursorStmt" | "LockStmt"
        | "TransactionStmt" => &[Transaction],
        "FetchStmt" => &[Transaction, Read],
        "DiscardStmt" | "ListenStmt" | "UnlistenStmt" | "VariableSetStmt" => &[Set],
        "VariableShowStmt" => &[Read],
        // What they hold says it.
        "PrepareStmt" | "ReturnStmt" | "PlassignStmt" | "RawStmt" => &[],
        _ => return None,
    };
    Some(effects.iter().copied().collect())
}

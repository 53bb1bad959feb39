"""Looking after a store: status, plan, verify, repair, vacuum, capacity."""

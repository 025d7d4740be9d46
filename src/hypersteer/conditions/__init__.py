"""When an edit acts: conditions, rules over them, the gate, and how they are fitted."""

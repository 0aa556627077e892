// Package gc decides which nars may go and removes them in steps: roots, mark, plan, execute, and undo until the last step. It
// is the one role that is handed a Deleter, and it never decides by a name or a date alone. It is not built yet.
package gc

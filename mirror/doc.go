// Package mirror is the replica that anyone may run: it follows a herder, or any substitute server, fetches what changed (by
// delta where it holds a relative), checks every nar against its NarHash before serving it, rewrites only the unsigned lines of
// narinfos, and reports its health. It will hold no signing key and serve nothing it has not verified. It is not built yet.
package mirror

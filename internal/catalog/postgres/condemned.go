package postgres

import (
	"context"
	"fmt"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// Condemned implements catalog.Lifecycle.
func (db *DB) Condemned(ctx context.Context, h storepath.HashPart) (catalog.Item, error) {
	b := h.Bytes()
	found, err := db.items(ctx, "SELECT "+itemColumns+" FROM condemned i"+itemTables+"WHERE i.hash = $1 AND i.deleting = 0", b[:])
	if err == nil && len(found) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.Item{}, fmt.Errorf("look up %s, which may be withdrawn: %w", h, err)
	}
	return found[0], nil
}

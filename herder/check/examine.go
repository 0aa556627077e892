package check

import (
	"context"
	"errors"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// Examine reads one file of an item to its end, as a deep check does. It returns the kind of damage with what was expected and what
// was found, or "" if the file is whole. With an error of the object store nothing is known.
func Examine(ctx context.Context, objects Objects, it catalog.Item, f catalog.File) (Kind, string, error) {
	e := &expander{checker: &checker{Config: Config{Objects: objects}}}
	err := e.expand(ctx, it, f)
	var bad corrupt
	switch {
	case err == nil:
		return "", "", nil
	case ctx.Err() != nil:
		return "", "", context.Cause(ctx)
	case errors.As(err, &bad):
		return Corrupt, bad.Error(), nil
	case errors.Is(err, objstore.ErrNotFound):
		return Missing, "the object is not in the store", nil
	}
	return "", "", err
}

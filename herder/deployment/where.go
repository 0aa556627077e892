package deployment

import (
	"errors"
	"path/filepath"
	"strings"
)

// ErrElsewhere says that a configuration names another object store than the one that the catalogue was filled for.
var ErrElsewhere = errors.New("the objects of this deployment are elsewhere")

// where says where the objects are, the same for the same place. A folder within the state folder moves with it.
func (o *Objects) where(state string) string {
	if o.Endpoint != "" {
		return "bucket " + strings.TrimRight(o.Endpoint, "/") + "/" + o.Bucket + "/" + o.Prefix
	}
	if o.Directory == "" {
		return "folder objects of the state folder"
	}
	if within, err := filepath.Rel(state, o.Directory); err == nil && filepath.IsLocal(within) {
		return "folder " + within + " of the state folder"
	}
	return "folder " + filepath.Clean(o.Directory)
}

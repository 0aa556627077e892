package sqlite_test

import (
	"testing"

	"narfold/internal/catalog/catalogtest"
)

func TestPopularity(t *testing.T) {
	fresh, again := files()
	catalogtest.Popularity(t, fresh, again)
}

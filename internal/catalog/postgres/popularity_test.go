package postgres

import (
	"testing"

	"narfold/internal/catalog/catalogtest"
)

func TestPopularity(t *testing.T) {
	fresh, again := catalogues()
	catalogtest.Popularity(t, fresh, again)
}

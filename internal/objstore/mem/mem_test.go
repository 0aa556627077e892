package mem_test

import (
	"testing"

	"narfold/internal/objstore"
	"narfold/internal/objstore/mem"
	"narfold/internal/objstore/objstoretest"
)

func TestContract(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Store { return mem.New() })
}

package main

import (
	"os"
	"testing"
)

// asProgram, set in the environment, makes the test's own binary the program, so that a test can kill it.
const asProgram = "NARFOLD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

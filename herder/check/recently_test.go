package check

import "testing"

func TestWhatWasAddedRecentlyIsRemembered(t *testing.T) {
	var r recently
	if r.has("00000000000000000000000000000000") {
		t.Error("an empty memory remembers")
	}
	r.add("00000000000000000000000000000000")
	r.young, r.old = nil, r.young
	if !r.has("00000000000000000000000000000000") || len(r.young) != 1 {
		t.Error("what is asked for is not kept for longer")
	}
}

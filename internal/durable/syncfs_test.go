package durable

import "testing"

func TestAtLeastReadsKernelReleases(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-28-amd64": true, "5.8.0": true, "5.10-rc1": true, "5.7.19": false, "4.19.0-27-amd64": false, "10.0": true, "": false, "x.y": false,
	} {
		if got := atLeast(release, 5, 8); got != want {
			t.Errorf("atLeast(%q, 5, 8) = %v", release, got)
		}
	}
}

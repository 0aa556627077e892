package main

import (
	"testing"

	"narfold/internal/nixkey/nixtest"
)

func TestAPushedClosureIsInstalledByNix(t *testing.T) {
	nix := nixtest.New(t)
	dep, app, dev := twoPackages(t, nix)
	o := newOrigin(t, nix, true, nil)
	sum := o.pushed("--closure", dev)
	if sum.Published != 3 || sum.Present != 0 || sum.Sent == 0 {
		t.Errorf("first push: %+v", sum)
	}
	o.holds(dep, app, dev)
	o.fetch(dep, app, dev)
	again := o.pushed("--closure", dev)
	if again.Published != 0 || again.Present != 3 || again.Sent != 0 {
		t.Errorf("second push: %+v", again)
	}
	o.holds(dep, app, dev)
}

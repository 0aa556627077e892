package synthetic

import (
	"math/rand/v2"
	"strings"
)

// collections are the beginnings of names, as often as Guix's packages have about that share of them.
var collections = []string{"", "", "", "", "", "", "", "lib", "python-", "python-", "r-", "r-", "rust-", "rust-", "rust-", "ghc-", "emacs-", "perl-", "go-github-com-",
	"ruby-", "texlive-", "sbcl-", "ecl-", "guile-", "julia-", "ocaml-", "qt", "java-", "node-", "font-"}

var (
	onsets = strings.Fields("b c d f g h j k l m n p qu r s t v w x z br ch cl cr dr fl gl gr ph pl pr sc sh sl sp st th tr")
	nuclei = strings.Fields("a e i o u a e i o u ai ea ee io oo ou y")
	codas  = strings.Fields("n r s t l m d k x ck ng nt rt st")
)

// stem makes a name without a version.
func stem(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString(collections[r.IntN(len(collections))])
	for words := 1 + r.IntN(8)/5; words > 0; words-- {
		for range 1 + r.IntN(3) {
			b.WriteString(onsets[r.IntN(len(onsets))])
			b.WriteString(nuclei[r.IntN(len(nuclei))])
		}
		if r.IntN(2) == 0 {
			b.WriteString(codas[r.IntN(len(codas))])
		}
		if words > 1 {
			b.WriteByte('-')
		}
	}
	return b.String()
}

package derivation

import "narfold/internal/storepath"

// Append appends the bytes of the .drv.
func (d *Derivation) Append(dst []byte) []byte {
	return appendAll(d, dst, false, d.InputDrvs, func(in Input) string { return in.Path.String() }, func(in Input) []string { return in.Outputs })
}

// String returns the bytes of the .drv.
func (d *Derivation) String() string { return string(d.Append(nil)) }

// hashed stands for an input in the text from which hashes are taken: the hash of a derivation instead of its path.
type hashed struct {
	hash    string
	outputs []string
}

// masked appends the text from which hashes are taken. With withoutOutputs the outputs' paths are left empty, there and in the
// variables of their names, since they follow from that hash.
func (d *Derivation) masked(dst []byte, inputs []hashed, withoutOutputs bool) []byte {
	m := *d
	if withoutOutputs {
		m.Outputs = make([]Output, len(d.Outputs))
		for i, o := range d.Outputs {
			o.Path = storepath.Path{}
			m.Outputs[i] = o
		}
	}
	return appendAll(&m, dst, withoutOutputs, inputs, func(in hashed) string { return in.hash }, func(in hashed) []string { return in.outputs })
}

// appendAll writes the term; in goes into it by the name and the outputs that the two functions give.
func appendAll[In any](d *Derivation, dst []byte, mask bool, in []In, name func(In) string, outputs func(In) []string) []byte {
	dst = append(dst, "Derive("...)
	dst = appendList(dst, d.Outputs, func(dst []byte, o Output) []byte {
		path := ""
		if o.Path != (storepath.Path{}) {
			path = o.Path.String()
		}
		return appendTuple(dst, o.Name, path, o.HashAlgo, o.Hash)
	})
	dst = append(dst, ',')
	dst = appendList(dst, in, func(dst []byte, one In) []byte {
		dst = appendString(append(dst, '('), name(one))
		dst = append(dst, ',')
		return append(appendList(dst, outputs(one), appendString), ')')
	})
	dst = append(dst, ',')
	dst = appendList(dst, d.InputSrcs, func(dst []byte, p storepath.Path) []byte { return appendString(dst, p.String()) })
	dst = append(dst, ',')
	dst = appendString(dst, d.System)
	dst = append(dst, ',')
	dst = appendString(dst, d.Builder)
	dst = append(dst, ',')
	dst = appendList(dst, d.Args, appendString)
	dst = append(dst, ',')
	dst = appendList(dst, d.Env, func(dst []byte, v Variable) []byte {
		if mask {
			if _, isOutput := d.Output(v.Name); isOutput {
				return appendTuple(dst, v.Name, "")
			}
		}
		return appendTuple(dst, v.Name, v.Value)
	})
	return append(dst, ')')
}

func appendList[T any](dst []byte, all []T, element func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, one := range all {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = element(dst, one)
	}
	return append(dst, ']')
}

func appendTuple(dst []byte, all ...string) []byte {
	dst = append(dst, '(')
	for i, s := range all {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ')')
}

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

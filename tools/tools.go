// Package tools pins the servers and checkers that the tests run beside Narfold.
//
// It is a module of its own so that none of them becomes a dependency of the product.
package tools

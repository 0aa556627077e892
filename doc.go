// Package narfold holds no code: it is the place of the test that guards the shape of the repository (which package may import
// which, where a third-party library may live). The program is cmd/narfold, the roles are the folders beside this file.
package narfold

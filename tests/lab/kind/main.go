// kind's own command, built from its Go module for the tests.
package main

import "sigs.k8s.io/kind/cmd/kind/app"

func main() {
	app.Main()
}

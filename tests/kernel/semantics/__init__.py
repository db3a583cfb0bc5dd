"""Every decided line of the semantics, shown with real packets: one test for each rule, named by it."""

"""Where images come from: the published set, a person's folders, drawn shapes; all end in one pack."""

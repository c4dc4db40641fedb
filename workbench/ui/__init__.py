"""What all places of the page share: markup, forms, fields, tools of views, style."""

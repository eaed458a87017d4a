from fromzero.cli import main

raise SystemExit(main())

"""Compare runs on one page: `python report.py RUN_OR_SWEEP_FOLDER...`."""

from diffusion_fw.app.report_page import main

if __name__ == "__main__":
    main()

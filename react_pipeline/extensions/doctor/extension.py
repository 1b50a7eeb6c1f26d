"""What the doctor adds: the command `doctor`."""

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Doctor(Extension):
    """Diagnosis."""

    def add_commands(self, app: "typer.Typer") -> None:
        """`react-pipeline doctor`."""
        import typer

        from react_pipeline.commands import Config, print_table

        @app.command(rich_help_panel="Start")
        def doctor(config: Config = None) -> None:
            """Show what this machine and this project have, what is missing, and how to get it."""
            from react_pipeline.extensions.doctor.diagnosis import diagnose

            findings = diagnose(config)
            rows = [[one.what, one.state, one.detail, one.remedy] for one in findings]
            print_table(["what", "state", "detail", "what to do"], rows)
            raise typer.Exit(1 if any(one.state == "missing" for one in findings) else 0)

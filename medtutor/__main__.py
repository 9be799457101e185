from medtutor.cli import main

if __name__ == "__main__":  # the processes that grade import this file
    main()
